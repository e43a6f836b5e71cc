"""How many elements a msgpack document has is told before it is parsed."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("msgpack")

import msgpack
from hypothesis import given
from hypothesis import strategies as st

from secfed.engines.flare.elements import has_at_most

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=300)
    | st.binary(max_size=70_000)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=300)),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=5), inner, max_size=20),
    max_leaves=100,
)


def elements_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(1 + elements_of(each) for each in value.values())
    if isinstance(value, list):
        return 1 + sum(map(elements_of, value))
    return 1


@given(VALUES)
def test_the_number_is_that_of_what_was_packed(value: Any) -> None:
    data, number = msgpack.packb(value), elements_of(value)
    assert has_at_most(data, number)
    assert has_at_most(memoryview(data), number)
    assert not has_at_most(data, number - 1)


@pytest.mark.parametrize("value", [[0] * 70_000, dict.fromkeys(range(70_000), 0), [[]] * 40_000])
def test_large_arrays_and_maps_are_counted(value: Any) -> None:
    assert has_at_most(msgpack.packb(value), 200_000)
    assert not has_at_most(msgpack.packb(value), 40_000)


@pytest.mark.parametrize("data", [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff\x01", b"\xdc\xff\xff" * 2])
def test_what_a_container_only_says_counts(data: bytes) -> None:
    assert not has_at_most(data)


@given(st.binary(max_size=2000))
def test_anything_is_scanned_to_its_end(data: bytes) -> None:
    has_at_most(data)
