"""Masks and checksum keys belong to what a node was shown: another U2 gives others, all of them."""

from __future__ import annotations

import itertools

import numpy as np

from protocols.checksum import ChecksumKey
from protocols.derivations import view_of
from protocols.masking import MaskedSum

SESSION = bytes(range(32))
COHORT = range(5)
SUBSETS = [subset for size in range(6) for subset in itertools.combinations(COHORT, size)]


def masks(view: bytes) -> dict[str, tuple[int, ...]]:
    """Every mask that a node makes from two seeds, on a vector and on its tag."""
    made = {}
    for name in ("self", "pair"):
        masked = MaskedSum(view, np.zeros(4, dtype=np.uint32), 0)
        if name == "self":
            masked.add_self_mask(bytes(32), 0)
        else:
            masked.add_pair_mask(bytes(32), 0, 1)
        made[f"{name} on the vector"] = tuple(masked.vector.tolist())
        made[f"{name} on the tag"] = (masked.tag,)
    return made


def test_every_set_of_sharers_is_a_view_of_its_own_in_every_session() -> None:
    views = {view_of(session, subset) for session in (SESSION, bytes(32)) for subset in SUBSETS}
    assert len(views) == 2 * len(SUBSETS)
    assert view_of(SESSION, (2, 0, 1)) == view_of(SESSION, (0, 1, 2))


def test_no_mask_of_one_view_is_a_mask_of_another() -> None:
    seen = [masks(view_of(SESSION, subset)) for subset in SUBSETS]
    for kind in seen[0]:
        assert len({each[kind] for each in seen}) == len(SUBSETS), kind


def test_a_checksum_key_belongs_to_a_view_even_if_the_contributions_are_the_same() -> None:
    vector = np.arange(1, 5, dtype=np.int64)
    tags = {ChecksumKey(view_of(SESSION, subset), {0: bytes(32)}, 32).tag(vector) for subset in SUBSETS}
    assert len(tags) == len(SUBSETS)
