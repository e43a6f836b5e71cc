"""What the tests of faults share: a session of seven, and whether its sum is right."""

from __future__ import annotations

from protocols import encoding
from protocols.session import SessionConfig
from tests.protocols.rounds import configure, plain_sum
from tests.protocols.stages import Walk


def seven() -> SessionConfig:
    """N = 7, c = 1, f = 2: quorum 5."""
    return configure(7, dropouts=2, colluders=1)


def right(walk: Walk) -> bool:
    """Whether what the aggregator published, and every node that accepted it has, is the survivors' sum."""
    expected = plain_sum(walk.config, walk.vectors, walk.aggregator.survivors)
    shape = walk.config.context.shape
    published = encoding.from_ring(encoding.unpack(walk.aggregator.packed_sum, shape), shape)
    return all(total.tolist() == expected for total in (published, *walk.totals.values()))
