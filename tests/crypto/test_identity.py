"""Identities sign as RFC 8032 says, and never the same bytes for two purposes."""

from __future__ import annotations

import copy
import pickle

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crypto.identity import Identity, PublicIdentity
from crypto.kdf import encode_parts

# RFC 8032, section 7.1, TEST 1 to 3: seed, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
]
SEED = bytes.fromhex(RFC_8032[0][0])
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC_8032)
def test_seed_public_key_and_signature_are_those_of_rfc_8032(
    seed: str, public: str, message: str, signature: str
) -> None:
    identity = Identity(bytes.fromhex(seed))
    assert identity.public.raw.hex() == public
    assert identity.seed().hex() == seed
    key = Ed25519PrivateKey.from_private_bytes(identity.seed())
    assert key.sign(bytes.fromhex(message)).hex() == signature


def test_a_signature_is_plain_ed25519_over_the_encoded_label_and_parts() -> None:
    key = Ed25519PrivateKey.from_private_bytes(SEED)
    assert Identity(SEED).sign("label", b"one", b"two") == key.sign(encode_parts("label", b"one", b"two"))


def test_a_signature_verifies_for_exactly_its_label_parts_and_signer() -> None:
    identity = Identity(SEED)
    signature = identity.sign("survivors", b"ab", b"c")
    assert identity.public.verifies(signature, "survivors", b"ab", b"c")
    assert not identity.public.verifies(signature, "receipt", b"ab", b"c")
    assert not identity.public.verifies(signature, "survivors", b"a", b"bc")
    assert not identity.public.verifies(signature, "survivors", b"ab", b"c", b"")
    assert not identity.public.verifies(signature, "survivors", b"c", b"ab")
    assert not Identity(bytes(32)).public.verifies(signature, "survivors", b"ab", b"c")


def test_a_signature_of_any_other_length_or_with_a_flipped_bit_does_not_verify() -> None:
    identity = Identity(SEED)
    signature = identity.sign("label", b"part")
    for wrong in (b"", signature[:-1], signature + b"\0", bytes(64)):
        assert not identity.public.verifies(wrong, "label", b"part")
    for position in range(0, 512, 37):
        flipped = bytearray(signature)
        flipped[position // 8] ^= 1 << (position % 8)
        assert not identity.public.verifies(bytes(flipped), "label", b"part")


def test_a_signature_with_its_scalar_raised_by_the_group_order_does_not_verify() -> None:
    # RFC 8032, section 5.1.7: s is below L. Otherwise anyone could make a second signature from the first.
    identity = Identity(SEED)
    signature = identity.sign("label")
    raised = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    assert not identity.public.verifies(signature[:32] + raised.to_bytes(32, "little"), "label")


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_seed_or_public_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Identity(bytes(length))
    with pytest.raises(ValueError, match="32 bytes"):
        PublicIdentity(bytes(length))


def test_a_new_identity_comes_from_the_entropy_it_is_given() -> None:
    asked = []

    def entropy(count: int) -> bytes:
        asked.append(count)
        return SEED

    assert Identity.generate(entropy).public == Identity(SEED).public
    assert asked == [32]


def test_two_generated_identities_differ() -> None:
    assert Identity.generate().public != Identity.generate().public


def test_an_identity_is_neither_pickled_copied_nor_printed() -> None:
    identity = Identity(SEED)
    for take in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="never pickled or copied"):
            take(identity)
    assert SEED.hex() not in repr(identity)
    assert str(SEED) not in repr(identity)


def test_public_identities_are_equal_when_their_keys_are() -> None:
    one, same, other = Identity(SEED).public, PublicIdentity(Identity(SEED).public.raw), Identity(bytes(32)).public
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != one.raw


def test_the_fingerprint_is_forty_digits_in_ten_groups_and_differs_by_key() -> None:
    fingerprint = Identity(SEED).public.fingerprint()
    assert [len(group) for group in fingerprint.split()] == [4] * 10
    assert fingerprint != Identity(bytes(32)).public.fingerprint()
