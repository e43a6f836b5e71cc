"""What a state machine tells the program around it: small frozen records, one for each event."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocols.errors import RemoteError


@dataclass(frozen=True, slots=True)
class Send:
    """Send these bytes to the aggregator."""

    data: bytes


@dataclass(frozen=True, slots=True)
class CohortSeen:
    """U1 is valid. Remember the ledger numbers, and refuse smaller ones from now on."""

    cohort: tuple[int, ...]
    quorum: int
    ledger_sequences: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class InputWanted:
    """All envelopes are open and valid: train, commit to the ledger, then call `Client.submit`."""

    sharers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SumPublished:
    """The sum over the survivors, as centred integers. Compute the next state, then call `Client.close`."""

    survivors: tuple[int, ...]
    total: NDArray[np.int64]


ClientEvent = Send | CohortSeen | InputWanted | SumPublished


def answer(
    events: Iterable[ClientEvent], submit: Callable[[], bytes], close: Callable[[NDArray[np.int64]], bytes]
) -> bytes:
    """Do a node's part as its session requests it.

    Args:
        events: those of one message.
        submit: gives the masked input, from `Client.submit`.
        close: gives the signature under the sum that it is called with, from `Client.close`.

    Returns:
        The message for the aggregator: the last one that the session, `submit` or `close` made; empty if there is none.
    """
    said = b""
    for event in events:
        match event:
            case Send(data):
                said = data
            case InputWanted():
                said = submit()
            case SumPublished(_, total):
                said = close(total)
    return said


@dataclass(frozen=True, slots=True)
class Accepted:
    """A node's message is valid and counted."""

    sender: int
    stage: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A node's message is not counted. An earlier valid one stands; without any, the node drops out at this stage."""

    sender: int
    stage: str
    fault: RemoteError


AggregatorEvent = Accepted | Rejected
