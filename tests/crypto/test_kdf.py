"""Keys are derived as RFC 5869 says, and no two purposes share an encoding."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from crypto.kdf import derive, digest, encode_parts

LABELS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PARTS = st.lists(st.binary(max_size=12), max_size=4)

# RFC 5869, appendix A, test cases 1 to 3 (SHA-256): input key, salt, info, output.
RFC_5869 = [
    (
        "0b" * 22,
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        bytes(range(0x00, 0x50)).hex(),
        bytes(range(0x60, 0xB0)).hex(),
        bytes(range(0xB0, 0x100)).hex(),
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
        "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
    ("0b" * 22, "", "", "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"),
]


def _hkdf(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA-256 written out from RFC 5869, sections 2.2 and 2.3."""
    extracted = hmac.digest(salt or bytes(32), key, "sha256")
    output = block = b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(extracted, block + info + bytes([counter]), "sha256")
        output += block
    return output[:length]


@pytest.mark.parametrize(("key", "salt", "info", "output"), RFC_5869, ids=["A.1", "A.2", "A.3"])
def test_the_library_and_the_independent_hkdf_give_the_vectors_of_rfc_5869(
    key: str, salt: str, info: str, output: str
) -> None:
    arguments = [bytes.fromhex(text) for text in (key, salt, info)]
    length = len(output) // 2
    assert _hkdf(*arguments, length).hex() == output
    library = HKDF(hashes.SHA256(), length, salt=arguments[1] or None, info=arguments[2])
    assert library.derive(arguments[0]).hex() == output


@given(st.binary(min_size=32, max_size=32), LABELS, PARTS, st.integers(1, 100))
def test_derive_is_hkdf_without_salt_over_the_encoded_purpose(
    key: bytes, label: str, context: list[bytes], length: int
) -> None:
    assert derive(key, label, *context, length=length) == _hkdf(key, b"", encode_parts(label, *context), length)


def test_the_longest_output_is_255_blocks() -> None:
    assert derive(bytes(32), "label", length=8160) == _hkdf(bytes(32), b"", encode_parts("label"), 8160)


@pytest.mark.parametrize("length", [-1, 0, 8161])
def test_a_length_that_hkdf_cannot_give_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="1 to 8160"):
        derive(bytes(32), "label", length=length)


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_a_key_that_is_not_32_bytes_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        derive(bytes(length), "label")


def test_key_label_context_and_length_of_context_all_matter() -> None:
    outputs = [
        derive(bytes(32), "label", b"context"),
        derive(b"\1" + bytes(31), "label", b"context"),
        derive(bytes(32), "Label", b"context"),
        derive(bytes(32), "label", b"Context"),
        derive(bytes(32), "label"),
        derive(bytes(32), "label", b""),
        derive(bytes(32), "labelcontext"),
        derive(bytes(32), "label", b"con", b"text"),
    ]
    assert len(set(outputs)) == len(outputs)


def _decode_parts(encoded: bytes) -> tuple[str, list[bytes]]:
    """The inverse of `encode_parts`: that there is one is what injective means."""
    rest = encoded.removeprefix(b"secfed/v1")
    assert len(rest) == len(encoded) - 9
    parts = []
    while rest:
        length = int.from_bytes(rest[:8], "big")
        parts.append(rest[8 : 8 + length])
        assert len(parts[-1]) == length
        rest = rest[8 + length :]
    return parts[0].decode(), parts[1:]


@given(LABELS, PARTS)
def test_a_label_and_its_parts_can_be_read_back_from_their_encoding(label: str, parts: list[bytes]) -> None:
    assert _decode_parts(encode_parts(label, *parts)) == (label, parts)


@given(LABELS, LABELS, PARTS, PARTS)
def test_different_labels_or_parts_never_share_an_encoding(
    label: str, other_label: str, parts: list[bytes], other_parts: list[bytes]
) -> None:
    same = (label, parts) == (other_label, other_parts)
    assert (encode_parts(label, *parts) == encode_parts(other_label, *other_parts)) is same


@given(st.binary(min_size=2, max_size=30), st.data())
def test_the_same_bytes_split_elsewhere_have_another_encoding(content: bytes, data: st.DataObject) -> None:
    first, second = data.draw(
        st.lists(st.integers(0, len(content)), min_size=2, max_size=2, unique=True), label="two places"
    )
    assert encode_parts("l", content[:first], content[first:]) != encode_parts("l", content[:second], content[second:])


def test_a_digest_is_sha_256_over_the_encoding() -> None:
    # Written out by hand: domain, then each length in eight bytes and the bytes.
    message = b"secfed/v1" + b"\0\0\0\0\0\0\0\5label" + b"\0\0\0\0\0\0\0\2ab" + bytes(8)
    assert digest("label", b"ab", b"") == hashlib.sha256(message).digest()
