"""What the tests of claims share: nodes whose answers are bent, and what owners are told."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from protocols import sharing
from protocols.errors import FaultKind
from protocols.wire import decode, encode, fields_of, message_type
from tests.secfed.federation import Federation

EVERYBODY = frozenset(f"hospital-{node}" for node in range(5))


def bend_answers(federation: Federation, node: int, kind: Any, change: Callable[[Any], bytes], times: int = 1) -> None:
    """The node's first `times` answers of one kind are replaced by what `change` makes of the message."""
    handle = federation.nodes[node].handle
    left = itertools.count(times, -1)

    def bent(request: bytes) -> bytes:
        answer = handle(request)
        limits = federation.nodes[node].chain.limits
        if answer and message_type(answer, 1 << 20, node) == kind.TYPE and next(left) > 0:
            return change(decode(kind, answer, limits, node))
        return answer

    federation.nodes[node].handle = bent  # type: ignore[method-assign]


def resigned(federation: Federation, node: int, message: Any, **changes: Any) -> bytes:
    """What a dishonest node sends: the message with other fields, under its own good signature."""
    return encode(
        sharing.sign(type(message)(**{**fields_of(message), **changes}), federation.nodes[node].parts.identity)
    )


def told(federation: Federation, *parts: str) -> dict[str, int]:
    """How often each owner was told a line with all of these parts in it."""
    counts: dict[str, int] = {}
    for name, text in federation.told:
        if all(part in text for part in parts):
            counts[name] = counts.get(name, 0) + 1
    return counts


def once_each(names: frozenset[str]) -> dict[str, int]:
    return dict.fromkeys(names, 1)


def claims(record: Any) -> set[tuple[int | None, int, FaultKind]]:
    return {(claim.by, claim.accused, claim.kind) for claim in record.faults}
