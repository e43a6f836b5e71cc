"""The search for t shares that give a dealer's secret: it finds what it says, and its work is bounded."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from crypto import shamir
from protocols import unmasking
from protocols.errors import FaultKind, RoundVoid
from protocols.unmasking import Search, Unmasking


def test_every_subset_is_tried_up_to_a_roster_of_fourteen() -> None:
    for size in range(8, 15):
        found = list(Search().subsets(range(14), size))
        assert len(found) == len(set(found)) == math.comb(14, size)
        assert all(len(set(subset)) == size for subset in found)


@pytest.mark.parametrize(("nodes", "quorum", "wrong"), [(30, 20, 3), (100, 67, 3), (200, 134, 3), (1000, 668, 1)])
def test_a_few_wrong_shares_are_found_wherever_they_are(nodes: int, quorum: int, wrong: int) -> None:
    places = random.Random(1)
    for _ in range(5):
        bad = set(places.sample(range(nodes), wrong))
        assert any(bad.isdisjoint(subset) for subset in Search().subsets(range(nodes), quorum))


def never(*_: object) -> bool:
    return False


def recoveries(monkeypatch: pytest.MonkeyPatch, nodes: int, quorum: int, dealers: int) -> int:
    """Points weighed against one another while all these dealers' secrets are looked for in vain."""
    weighed = []
    monkeypatch.setattr(unmasking.shamir, "recover_secret", lambda shares, size: weighed.append(size) or bytes(32))
    everyone = tuple(range(nodes))
    unmask, search = Unmasking(b"", quorum, {}, {}, everyone, everyone), Search()
    for dealer in range(dealers):
        with pytest.raises(RoundVoid) as void:
            unmask._recover(dealer, dict.fromkeys(everyone, b""), never, search)
        assert (void.value.blamed, void.value.kind) == ({dealer}, FaultKind.SECRET)
    return sum(size**2 for size in weighed)


@pytest.mark.parametrize("dealers", [1, 5])
@pytest.mark.parametrize(("nodes", "quorum"), [(20, 11), (50, 30), (200, 101), (200, 134), (1000, 501)])
def test_the_work_has_one_bound_for_all_dealers_of_a_round(
    monkeypatch: pytest.MonkeyPatch, nodes: int, quorum: int, dealers: int
) -> None:
    """The old search cost 5,000 recoveries a dealer: 224 million pairs of points at N = 200."""
    assert recoveries(monkeypatch, nodes, quorum, dealers) <= 8_000_000 + dealers * quorum**2


def test_a_dealer_after_others_used_the_work_up_still_has_its_first_subset_tried() -> None:
    search = Search(most_work=0)
    for _ in range(3):
        assert list(search.subsets(range(9), 6)) == [(0, 1, 2, 3, 4, 5)]


def test_a_wrong_share_far_back_is_got_around_with_the_real_arithmetic() -> None:
    nodes, quorum, secret = tuple(range(60)), 40, bytes(range(32))
    shares = shamir.share_secret(secret, quorum, [1 + node for node in nodes], bytes(32))
    for node in (0, 19, 37):
        shares[1 + node] = shares[2 + node]
    released = {node: shares[1 + node] for node in nodes}
    unmask = Unmasking(b"", quorum, {}, {}, nodes, nodes)
    assert unmask._recover(7, released, lambda owner, found: found == secret, Search()) == secret
    assert not any({0, 19, 37}.isdisjoint(each) for each in itertools.islice(Search().subsets(nodes, quorum), 1))
