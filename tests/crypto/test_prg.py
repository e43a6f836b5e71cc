"""Mask streams are AES-256-CTR, do not depend on chunking, and cancel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR, ECB
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from crypto.prg import add_stream, keystream, subtract_stream

KEY = bytes(range(32))
KEYS = st.binary(min_size=32, max_size=32)
SIZES = st.integers(0, 300)
CHUNKS = st.integers(1, 200).map(lambda words: 8 * words)
DTYPES = st.sampled_from([np.uint32, np.uint64])


def _counter_blocks(key: bytes, count: int) -> bytes:
    """The first bytes of the stream, from AES of 0, 1, 2... alone: SP 800-38A, section 6.5."""
    blocks = b"".join(counter.to_bytes(16, "big") for counter in range(-(-count // 16)))
    encryptor = Cipher(AES256(key), ECB()).encryptor()  # noqa: S305 - the independent implementation under test
    return (encryptor.update(blocks) + encryptor.finalize())[:count]


def test_the_library_gives_the_aes_256_ctr_vector_of_sp_800_38a() -> None:
    # NIST SP 800-38A, appendix F.5.5 (CTR-AES256.Encrypt).
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    plaintext = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    ciphertext = bytes.fromhex(
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
        "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
    )
    assert Cipher(AES256(key), CTR(counter)).encryptor().update(plaintext) == ciphertext


@given(KEYS, st.integers(1, 500))
def test_the_stream_is_aes_of_the_counters_from_zero(key: bytes, count: int) -> None:
    assert keystream(key).update(bytes(count)) == _counter_blocks(key, count)


@given(KEYS, SIZES, CHUNKS, DTYPES)
def test_the_stream_is_added_as_little_endian_words_at_any_chunking(
    key: bytes, size: int, chunk_bytes: int, dtype: Any
) -> None:
    vector = np.zeros(size, dtype=dtype)
    add_stream(vector, key, chunk_bytes=chunk_bytes)
    assert vector.astype(vector.dtype.newbyteorder("<")).tobytes() == _counter_blocks(key, vector.nbytes)


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_a_vector_longer_than_the_default_chunk_is_the_same_in_small_chunks(dtype: Any) -> None:
    whole, pieces = np.zeros(70_001, dtype=dtype), np.zeros(70_001, dtype=dtype)
    add_stream(whole, KEY)
    add_stream(pieces, KEY, chunk_bytes=24)
    assert np.array_equal(whole, pieces)


@given(KEYS, KEYS, SIZES, CHUNKS, CHUNKS, DTYPES, st.integers(0, 2**32))
def test_subtracting_takes_away_exactly_what_was_added(
    key: bytes, other: bytes, size: int, one_chunk: int, another_chunk: int, dtype: Any, seed: int
) -> None:
    start = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, size, dtype=dtype, endpoint=True)
    vector = start.copy()
    add_stream(vector, key, chunk_bytes=one_chunk)
    subtract_stream(vector, other, chunk_bytes=one_chunk)
    add_stream(vector, other, chunk_bytes=another_chunk)
    subtract_stream(vector, key, chunk_bytes=another_chunk)
    assert np.array_equal(vector, start)


def test_addition_wraps_at_the_width_of_the_words() -> None:
    stream = np.frombuffer(_counter_blocks(KEY, 64), dtype="<u4").astype(np.uint32)
    vector = np.full(16, 2**32 - 1, dtype=np.uint32)
    add_stream(vector, KEY)
    assert np.array_equal(vector, stream - np.uint32(1))


def test_different_keys_give_different_streams() -> None:
    one, other = np.zeros(100, dtype=np.uint64), np.zeros(100, dtype=np.uint64)
    add_stream(one, KEY)
    add_stream(other, b"\1" + KEY[1:])
    assert not np.any(one == other)


def test_a_slice_of_a_larger_vector_is_changed_in_place_and_nothing_beside_it() -> None:
    vector = np.zeros(30, dtype=np.uint64)
    add_stream(vector[10:20], KEY)
    assert not vector[:10].any()
    assert not vector[20:].any()
    assert vector[10:20].all()


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(8, dtype=np.int64),
        np.zeros(8, dtype=np.uint16),
        np.zeros(8, dtype=np.float64),
        np.zeros(8, dtype=np.dtype(np.uint32).newbyteorder()),
        np.zeros((2, 4), dtype=np.uint32),
        np.zeros(16, dtype=np.uint32)[::2],
        np.zeros(8, dtype=np.uint64)[::-1],
    ],
    ids=["signed", "narrow", "float", "foreign-byte-order", "matrix", "strided", "reversed"],
)
def test_anything_but_a_contiguous_ring_vector_is_refused_and_left_alone(vector: NDArray[Any]) -> None:
    for operation in (add_stream, subtract_stream):
        with pytest.raises(ValueError, match="contiguous one-dimensional array of uint32 or uint64"):
            operation(vector, KEY)
    assert not vector.any()


@pytest.mark.parametrize("chunk_bytes", [-8, 0, 4, 12, 65_537])
def test_a_chunk_that_would_cut_a_word_is_refused(chunk_bytes: int) -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        add_stream(np.zeros(8, dtype=np.uint64), KEY, chunk_bytes=chunk_bytes)


@pytest.mark.parametrize("length", [0, 16, 24, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        add_stream(np.zeros(8, dtype=np.uint64), bytes(length))
