"""The report's rows about rounds that were repeated from one model state more often than nodes do by themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from secfed.rounds.channel import ATTEMPTS_MAX


def repeated_rounds(rounds: Sequence[Mapping[str, Any]], party: str) -> list[dict[str, str]]:
    """A row for each state from which more rounds than usual were joined: a heading and a sentence.

    Args:
        rounds: as `summary.json` has them, in order.
        party: what a node is called.
    """
    return [
        {
            "what": f"What one {party} contributed to rounds {joined[0]} to {joined[-1]}",
            "why": f"{len(joined)} rounds started from one state of the model. By themselves {party}s join "
            f"{ATTEMPTS_MAX}; their owners may allow more. Sums over different {party}s differ by what one of them "
            "contributed, so each attempt tells whoever ran the aggregator more about it. The account counts what each "
            "spent.",
        }
        for joined in _of_each_state(rounds)
        if len(joined) > ATTEMPTS_MAX
    ]


def _of_each_state(rounds: Sequence[Mapping[str, Any]]) -> Iterator[list[int]]:
    """The numbers of the rounds that were joined, state by state: a completed round is the last from its state."""
    joined: list[int] = []
    for each in rounds:
        if each["cohort"]:
            joined.append(each["number"])
        if not each["attempt_void"]:
            yield joined
            joined = []
    yield joined
