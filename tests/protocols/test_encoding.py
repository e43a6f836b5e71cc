"""Fixed point, lifting and packing, against Python's integers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import encoding
from protocols.encoding import FixedPoint
from protocols.errors import LocalError, ParameterError
from protocols.parameters import RoundShape


def packed_reference(elements: list[int], bits: int) -> bytes:
    """The definition: one little-endian integer, the sum of x_i 2^(b i)."""
    total = sum(element << (bits * at) for at, element in enumerate(elements))
    return total.to_bytes((bits * len(elements) + 7) // 8, "little")


def words(elements: list[int], bits: int) -> encoding.RingVector:
    return np.array(elements, dtype=np.uint32) if bits <= 32 else np.array(elements, dtype=np.uint64)


@pytest.mark.parametrize("bits", range(8, 61))
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_packing_is_one_little_endian_integer_of_exactly_b_bits_an_element(bits: int, data: st.DataObject) -> None:
    elements = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=27))
    shape = RoundShape(len(elements), bits)
    packed = encoding.pack(words(elements, bits), shape)
    assert packed == packed_reference(elements, bits)
    assert len(packed) == shape.packed_bytes
    unpacked = encoding.unpack(packed, shape)
    assert unpacked.tolist() == elements
    assert unpacked.dtype == (np.uint32 if bits <= 32 else np.uint64)
    assert unpacked.flags.c_contiguous


@pytest.mark.parametrize("bits", [8, 13, 31, 32, 33, 60])
def test_packing_cuts_words_to_their_low_bits(bits: int) -> None:
    full = 2**32 - 1 if bits <= 32 else 2**64 - 1
    shape = RoundShape(5, bits)
    assert encoding.pack(words([full] * 5, bits), shape) == packed_reference([2**bits - 1] * 5, bits)


@pytest.mark.parametrize("bits", range(8, 61))
def test_a_padding_bit_that_is_set_is_refused(bits: int) -> None:
    for dimension in range(1, 10):
        shape = RoundShape(dimension, bits)
        packed = bytearray(encoding.pack(words([2**bits - 1] * dimension, bits), shape))
        for padding in range(dimension * bits, 8 * len(packed)):
            packed[padding // 8] |= 1 << (padding % 8)
            with pytest.raises(ValueError, match="padding"):
                encoding.unpack(bytes(packed), shape)
            packed[padding // 8] ^= 1 << (padding % 8)


@pytest.mark.parametrize("difference", [-1, 1])
def test_another_number_of_bytes_is_refused(difference: int) -> None:
    shape = RoundShape(9, 13)
    with pytest.raises(ValueError, match="15 bytes"):
        encoding.unpack(bytes(shape.packed_bytes + difference), shape)


@pytest.mark.parametrize("bits", range(8, 61))
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_lifting_undoes_the_step_into_the_ring(bits: int, data: st.DataObject) -> None:
    magnitude = (1 << (bits - 1)) - 1
    values = data.draw(st.lists(st.integers(-magnitude, magnitude), min_size=1, max_size=9))
    shape = RoundShape(len(values), bits)
    ring = encoding.to_ring(np.array(values, dtype=np.int64), shape, magnitude)
    assert [int(word) % 2**bits for word in ring] == [value % 2**bits for value in values]
    assert encoding.from_ring(ring, shape).tolist() == values


@pytest.mark.parametrize("bits", [8, 32, 33, 60])
def test_the_ring_is_lifted_to_the_half_open_centred_range(bits: int) -> None:
    half = 1 << (bits - 1)
    lifted = encoding.from_ring(words([half - 1, half, 2 * half - 1, 0], bits), RoundShape(4, bits))
    assert lifted.tolist() == [half - 1, -half, -1, 0]


@pytest.mark.parametrize("value", [11, -11, np.iinfo(np.int64).min, np.iinfo(np.int64).max])
def test_an_element_beyond_the_certificate_is_refused(value: int) -> None:
    shape = RoundShape(3, 16)
    encoding.to_ring(np.array([10, -10, 0]), shape, 10)
    with pytest.raises(LocalError, match="overflow certificate"):
        encoding.to_ring(np.array([0, value, 0]), shape, 10)


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(4, dtype=np.int64),
        np.zeros((3, 1), dtype=np.int64),
        np.zeros(3, dtype=np.int32),
        np.zeros(3, dtype=np.float64),
        np.zeros(3, dtype=">i8"),
    ],
)
def test_an_input_of_another_shape_or_type_is_refused(vector: np.ndarray) -> None:
    with pytest.raises(LocalError, match=r"needs int64\(3,\)"):
        encoding.to_ring(vector, RoundShape(3, 16), 10)


@pytest.mark.parametrize("bits", [20, 50])
def test_the_input_is_neither_changed_nor_shared_and_may_be_a_view(bits: int) -> None:
    values = np.arange(6)
    ring = encoding.to_ring(values[::-2], RoundShape(3, bits), 10)
    assert ring.tolist() == [5, 3, 1]
    assert ring.flags.c_contiguous
    ring[:] = 9
    assert values.tolist() == [0, 1, 2, 3, 4, 5]


def nearest_even(value: Fraction) -> int:
    return round(value)  # Python rounds a Fraction half to even


@settings(deadline=None)
@given(
    values=st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=20),
    bits=st.integers(0, 30),
    limit=st.integers(1, 2**40),
    weight=st.integers(1, 1000),
)
def test_fixed_point_is_the_nearest_step_cut_to_the_limit_times_the_weight(
    values: list[float], bits: int, limit: int, weight: int
) -> None:
    encoded = FixedPoint(bits, limit).encode(np.array(values, dtype=np.float32), weight)
    exact = [nearest_even(Fraction(value) * 2**bits) for value in values]
    assert encoded.tolist() == [max(-limit, min(limit, step)) * weight for step in exact]


def test_ties_go_to_the_even_step() -> None:
    assert FixedPoint(1, 100).encode(np.array([0.25, 0.75, 1.25, -0.25, -0.75])).tolist() == [0, 2, 2, 0, -2]


def test_numbers_that_are_none_cannot_stop_a_round() -> None:
    values = np.array([np.nan, np.inf, -np.inf, 1e308, -1e308, -0.0])
    assert FixedPoint(20, 77).encode(values, 3).tolist() == [0, 231, -231, 231, -231, 0]


def test_encoding_leaves_its_input_alone() -> None:
    values = np.array([0.5, np.nan])
    FixedPoint(4, 100).encode(values)
    assert values[0] == 0.5
    assert np.isnan(values[1])


def test_decoding_gives_the_weighted_mean() -> None:
    fixed = FixedPoint(10, 1 << 20)
    first, second = np.array([0.5, -2.0]), np.array([1.0, 4.0])
    total = fixed.encode(first, 1) + fixed.encode(second, 3)
    assert fixed.decode(total, 4).tolist() == [0.875, 2.5]


@pytest.mark.parametrize("weight", [0, -1, 1 << 62])
def test_a_weight_that_is_not_positive_or_overflows_is_refused(weight: int) -> None:
    with pytest.raises(LocalError):
        FixedPoint(4, 10).encode(np.zeros(1), weight)


@pytest.mark.parametrize("weight", [0, -1])
def test_a_sum_of_weights_that_is_not_positive_is_refused(weight: int) -> None:
    with pytest.raises(LocalError):
        FixedPoint(4, 10).decode(np.zeros(1, dtype=np.int64), weight)


@pytest.mark.parametrize(("bits", "limit"), [(-1, 10), (53, 10), (4, 0), (4, (1 << 53) + 1)])
def test_a_fixed_point_that_floats_cannot_hold_is_refused(bits: int, limit: int) -> None:
    with pytest.raises(ParameterError):
        FixedPoint(bits, limit)
