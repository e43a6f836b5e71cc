"""Sealing is HPKE with ML-KEM-768 and X25519 together, and opens for nobody and nothing else.

The library's one-shot call takes no associated data, and the vectors of RFC 9180 have some. So HPKE is written out
here from the RFC, checked against its vectors, and then opens what the library sealed, and seals what it opens.
"""

from __future__ import annotations

import copy
import hashlib
import hmac
import pickle

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from crypto.kdf import derive, encode_parts
from crypto.sealing import (
    ENCAPSULATED_BYTES,
    OVERHEAD_BYTES,
    PUBLIC_KEY_BYTES,
    SealingError,
    SealingKey,
    SealingPublicKey,
)

SEED = bytes(range(32))
X25519_SUITE = b"HPKE" + bytes.fromhex("002000010001")
"""RFC 9180, section 5.1: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM."""
HYBRID_SUITE = b"HPKE" + bytes.fromhex("647a00010002")
"""MLKEM768-X25519 (draft-ietf-hpke-pq; the X-Wing KEM), HKDF-SHA256, AES-256-GCM."""
SMALL_ORDER_POINTS = [
    # RFC 7748, section 6.1 and Curve25519's contributory behaviour: a key exchange with these gives zero.
    bytes(32),
    b"\1" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]

# RFC 9180, appendix A.1.1 (base mode), and the first of its encryptions.
INFO = bytes.fromhex("4f6465206f6e2061204772656369616e2055726e")
RECIPIENT = bytes.fromhex("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8")
RECIPIENT_PUBLIC = bytes.fromhex("3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d")
EPHEMERAL = bytes.fromhex("52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736")
ENCAPSULATED = bytes.fromhex("37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431")
SHARED_SECRET = bytes.fromhex("fe0e18c9f024ce43799ae393c7e8fe8fce9d218875e8227b0187c04e7d2ea1fc")
AEAD_KEY = bytes.fromhex("4531685d41d65f03dc48f6b8302c05b0")
BASE_NONCE = bytes.fromhex("56d890e5accaaf011cff4b7d")
PLAINTEXT = bytes.fromhex("4265617574792069732074727574682c20747275746820626561757479")
ASSOCIATED = b"Count-0"
CIPHERTEXT = bytes.fromhex("f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a")


def _labeled_extract(salt: bytes, suite: bytes, label: bytes, key: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + key, "sha256")


def _labeled_expand(key: bytes, suite: bytes, label: bytes, info: bytes, length: int) -> bytes:
    """One block is enough for every use here: `length` is at most 32."""
    message = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.digest(key, message + b"\1", "sha256")[:length]


def _dhkem_shared_secret(exchanged: bytes, encapsulated: bytes, recipient_public: bytes) -> bytes:
    """RFC 9180, section 4.1."""
    suite = b"KEM" + bytes.fromhex("0020")
    extracted = _labeled_extract(b"", suite, b"eae_prk", exchanged)
    return _labeled_expand(extracted, suite, b"shared_secret", encapsulated + recipient_public, 32)


def _key_schedule(shared_secret: bytes, suite: bytes, info: bytes, key_bytes: int) -> tuple[bytes, bytes]:
    """RFC 9180, section 5.1, base mode: key and base nonce."""
    context = b"\0" + _labeled_extract(b"", suite, b"psk_id_hash", b"")
    context += _labeled_extract(b"", suite, b"info_hash", info)
    secret = _labeled_extract(shared_secret, suite, b"secret", b"")
    return (
        _labeled_expand(secret, suite, b"key", context, key_bytes),
        _labeled_expand(secret, suite, b"base_nonce", context, 12),
    )


def _hybrid_keys(seed: bytes) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
    return (
        MLKEM768PrivateKey.from_seed_bytes(derive(seed, "sealing ML-KEM-768", length=64)),
        X25519PrivateKey.from_private_bytes(derive(seed, "sealing X25519")),
    )


def _combine(mlkem_secret: bytes, x25519_secret: bytes, x25519_encapsulated: bytes, x25519_public: bytes) -> bytes:
    """The X-Wing combiner (draft-connolly-cfrg-xwing-kem, section 5.3)."""
    message = mlkem_secret + x25519_secret + x25519_encapsulated + x25519_public + rb"\.//^" + b"\\"
    return hashlib.sha3_256(message).digest()


def test_the_written_out_hpke_gives_the_vector_of_rfc_9180() -> None:
    recipient = X25519PrivateKey.from_private_bytes(RECIPIENT)
    assert recipient.public_key().public_bytes_raw() == RECIPIENT_PUBLIC
    exchanged = recipient.exchange(X25519PublicKey.from_public_bytes(ENCAPSULATED))
    shared_secret = _dhkem_shared_secret(exchanged, ENCAPSULATED, RECIPIENT_PUBLIC)
    assert shared_secret == SHARED_SECRET
    key, nonce = _key_schedule(shared_secret, X25519_SUITE, INFO, 16)
    assert (key, nonce) == (AEAD_KEY, BASE_NONCE)
    assert AESGCM(key).decrypt(nonce, CIPHERTEXT, ASSOCIATED) == PLAINTEXT


def test_the_library_opens_what_the_keys_of_rfc_9180_seal() -> None:
    # Ephemeral key, recipient, info, key and nonce of A.1.1; only the associated data is empty.
    ephemeral = X25519PrivateKey.from_private_bytes(EPHEMERAL)
    assert ephemeral.public_key().public_bytes_raw() == ENCAPSULATED
    sealed = ENCAPSULATED + AESGCM(AEAD_KEY).encrypt(BASE_NONCE, PLAINTEXT, b"")
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_128_GCM)
    assert suite.decrypt(sealed, X25519PrivateKey.from_private_bytes(RECIPIENT), info=INFO) == PLAINTEXT


def test_a_second_implementation_opens_a_sealed_message_with_both_secrets() -> None:
    sealed = SealingKey(SEED).public.seal(b"shares", "label", b"binding")
    mlkem, x25519 = _hybrid_keys(SEED)
    encapsulated, ciphertext = sealed[:ENCAPSULATED_BYTES], sealed[ENCAPSULATED_BYTES:]
    mlkem_secret = mlkem.decapsulate(encapsulated[:1088])
    x25519_secret = x25519.exchange(X25519PublicKey.from_public_bytes(encapsulated[1088:]))
    public = x25519.public_key().public_bytes_raw()
    shared_secret = _combine(mlkem_secret, x25519_secret, encapsulated[1088:], public)
    key, nonce = _key_schedule(shared_secret, HYBRID_SUITE, encode_parts("label", b"binding"), 32)
    assert AESGCM(key).decrypt(nonce, ciphertext, b"") == b"shares"


def test_a_second_implementation_seals_what_opens() -> None:
    recipient = SealingKey(SEED)
    mlkem, x25519 = _hybrid_keys(SEED)
    mlkem_secret, mlkem_encapsulated = mlkem.public_key().encapsulate()
    ephemeral = X25519PrivateKey.from_private_bytes(EPHEMERAL)
    shared_secret = _combine(
        mlkem_secret, ephemeral.exchange(x25519.public_key()), ENCAPSULATED, x25519.public_key().public_bytes_raw()
    )
    key, nonce = _key_schedule(shared_secret, HYBRID_SUITE, encode_parts("label"), 32)
    sealed = mlkem_encapsulated + ENCAPSULATED + AESGCM(key).encrypt(nonce, b"shares", b"")
    assert recipient.open(sealed, "label") == b"shares"


def test_ml_kem_key_generation_separates_its_domain_as_fips_203_says() -> None:
    # FIPS 203, algorithm 13, line 1: (rho, sigma) = SHA3-512(d || k), k = 3; the key ends in rho.
    seed = hashlib.shake_128(b"").digest(64)
    public = MLKEM768PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw()
    assert public[-32:] == hashlib.sha3_512(seed[:32] + b"\3").digest()[:32]


def test_ml_kem_rejects_a_wrong_ciphertext_implicitly_as_fips_203_says() -> None:
    # The first of the reference implementation's vectors, as published by C2SP/CCTV (ML-KEM/pq-crystals): all inputs
    # come from SHAKE-128 of nothing. FIPS 203, algorithm 18, line 7: the answer is SHAKE-256(z || c).
    stream = hashlib.shake_128(b"").digest(96 + 1088)
    seed, ciphertext = stream[:64], stream[96:]
    rejected = MLKEM768PrivateKey.from_seed_bytes(seed).decapsulate(ciphertext)
    assert rejected.hex() == "b877da792d89f28049b590121601202d2bc8f5f1af8382bf4f3941050dd5172b"
    assert rejected == hashlib.shake_256(seed[32:] + ciphertext).digest(32)


def test_sizes_are_those_of_fips_203_and_x25519() -> None:
    public = SealingKey(SEED).public
    assert len(public.raw) == PUBLIC_KEY_BYTES == 1184 + 32
    for length in (0, 1, 5000):
        assert len(public.seal(bytes(length), "label")) == length + OVERHEAD_BYTES
    assert OVERHEAD_BYTES == 1088 + 32 + 16


def test_what_was_sealed_opens_with_the_same_label_and_binding() -> None:
    recipient = SealingKey(SEED)
    for plaintext in (b"", b"x", bytes(range(256)) * 10):
        sealed = recipient.public.seal(plaintext, "label", b"one", b"two")
        assert recipient.open(sealed, "label", b"one", b"two") == plaintext


def test_a_public_key_that_travelled_as_bytes_is_the_same_key() -> None:
    received = SealingPublicKey(SealingKey(SEED).public.raw)
    assert SealingKey(SEED).open(received.seal(b"shares", "label"), "label") == b"shares"


def test_the_same_seed_gives_the_same_key_pair_and_another_seed_another() -> None:
    assert SealingKey(SEED).public.raw == SealingKey(bytearray(SEED)).public.raw
    one, other = SealingKey(SEED).public.raw, SealingKey(bytes(32)).public.raw
    assert one[:1184] != other[:1184]
    assert one[1184:] != other[1184:]


def test_sealing_the_same_twice_shows_nothing_of_it() -> None:
    public = SealingKey(SEED).public
    one, other = public.seal(b"shares", "label"), public.seal(b"shares", "label")
    assert one[:1088] != other[:1088]
    assert one[1088:1120] != other[1088:1120]
    assert one[1120:] != other[1120:]


@pytest.mark.parametrize(
    ("label", "binding"),
    [
        ("label", (b"one", b"twO")),
        ("Label", (b"one", b"two")),
        ("label", (b"two", b"one")),
        ("label", (b"onetwo",)),
        ("label", (b"on", b"etwo")),
        ("label", (b"one", b"two", b"")),
        ("label", ()),
    ],
)
def test_a_sealed_message_does_not_open_for_another_label_or_binding(label: str, binding: tuple[bytes, ...]) -> None:
    recipient = SealingKey(SEED)
    sealed = recipient.public.seal(b"shares", "label", b"one", b"two")
    with pytest.raises(SealingError, match="does not open"):
        recipient.open(sealed, label, *binding)


def test_a_sealed_message_does_not_open_for_another_recipient() -> None:
    sealed = SealingKey(SEED).public.seal(b"shares", "label")
    with pytest.raises(SealingError, match="does not open"):
        SealingKey(bytes(32)).open(sealed, "label")


@pytest.mark.parametrize("position", [0, 500, 1087, 1088, 1110, 1120, 1124, -16, -1])
def test_a_sealed_message_with_one_changed_bit_does_not_open(position: int) -> None:
    recipient = SealingKey(SEED)
    sealed = bytearray(recipient.public.seal(b"shares", "label"))
    sealed[position] ^= 1
    with pytest.raises(SealingError, match="does not open"):
        recipient.open(bytes(sealed), "label")


@pytest.mark.parametrize("length", [0, 1, 1088, 1119, 1120, OVERHEAD_BYTES - 1, OVERHEAD_BYTES + 5])
def test_a_sealed_message_that_was_cut_does_not_open(length: int) -> None:
    recipient = SealingKey(SEED)
    sealed = recipient.public.seal(b"shares", "label")
    with pytest.raises(SealingError, match="does not open"):
        recipient.open(sealed[:length], "label")


def test_a_sealed_message_with_bytes_behind_it_does_not_open() -> None:
    recipient = SealingKey(SEED)
    with pytest.raises(SealingError, match="does not open"):
        recipient.open(recipient.public.seal(b"shares", "label") + b"\0", "label")


def test_every_refusal_to_open_reads_the_same() -> None:
    recipient = SealingKey(SEED)
    sealed = recipient.public.seal(b"shares", "label")
    texts = set()
    for wrong in (b"", sealed[:-1], bytes(len(sealed)), sealed[:1088] + bytes(32) + sealed[1120:]):
        with pytest.raises(SealingError) as caught:
            recipient.open(wrong, "label")
        texts.add(str(caught.value))
    assert len(texts) == 1


@pytest.mark.parametrize("point", SMALL_ORDER_POINTS, ids=["0", "1", "order-8", "order-8-too", "minus-1"])
def test_a_point_of_small_order_is_neither_sealed_to_nor_opened(point: bytes) -> None:
    recipient = SealingKey(SEED)
    with pytest.raises(SealingError, match="cannot be sealed to"):
        SealingPublicKey(recipient.public.raw[:1184] + point).seal(b"shares", "label")
    sealed = recipient.public.seal(b"shares", "label")
    with pytest.raises(SealingError, match="does not open"):
        recipient.open(sealed[:1088] + point + sealed[1120:], "label")


@pytest.mark.parametrize("coefficient", [3329, 4095])
@pytest.mark.parametrize("place", [0, 767])
def test_an_ml_kem_key_that_is_not_reduced_is_refused(coefficient: int, place: int) -> None:
    # FIPS 203, section 7.2, modulus check: two 12-bit coefficients in three bytes, little-endian, below 3329.
    raw = bytearray(SealingKey(SEED).public.raw)
    start = place // 2 * 3
    pair = int.from_bytes(raw[start : start + 3], "little")
    shift = 12 * (place % 2)
    pair = pair & ~(0xFFF << shift) | coefficient << shift
    raw[start : start + 3] = pair.to_bytes(3, "little")
    with pytest.raises(SealingError, match="not a valid"):
        SealingPublicKey(bytes(raw))


@pytest.mark.parametrize("length", [0, 32, 1184, PUBLIC_KEY_BYTES - 1, PUBLIC_KEY_BYTES + 1])
def test_a_public_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(SealingError, match="1216 bytes"):
        SealingPublicKey(bytes(length))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_seed_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        SealingKey(bytes(length))


def test_a_sealing_key_is_neither_pickled_copied_nor_printed() -> None:
    key = SealingKey(SEED)
    for take in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="never pickled or copied"):
            take(key)
    assert SEED.hex() not in repr(key)
