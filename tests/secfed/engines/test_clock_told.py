"""A node's owner is told of a clock that is far from the aggregator's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

pytest.importorskip("nvflare")


from secfed.engines.flare.clocks import Clocks
from tests.tls import DAY

SITE, OTHER = "clinic-a", "clinic-b"


def test_a_clock_that_is_off_is_told_once() -> None:
    told: list[str] = []
    clocks, ours = Clocks(told.append), datetime.now(UTC)
    for theirs in (None, ours, ours - timedelta(minutes=4)):
        clocks.compare(theirs, ours)
    assert told == []
    for _ in range(3):
        clocks.compare(ours - timedelta(hours=1), ours)
    assert [line.split(":")[0] for line in told] == ["this machine's clock is 60 minutes ahead of the aggregator's"]
    clocks.compare(None, ours)
    clocks.compare(ours, ours)
    clocks.compare(ours + DAY, ours)
    assert "agree again" in told[1]
    assert "24 hours behind the aggregator's" in told[2]
