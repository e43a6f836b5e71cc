"""Runs all explorations in parallel on the machine's cores, and reports on them."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing.queues import SimpleQueue

from audits.exploration.runs import Exploration, Explored, explore
from audits.exploration.search import Found

_SECONDS_BETWEEN_NEWS = 10.0
_explorations: Sequence[Exploration] = ()
_news: SimpleQueue[str] | None = None
"""Inherited by worker processes: a weakening is code, and cannot be sent to them."""


def explore_all(explorations: Sequence[Exploration], tell: Callable[[str], None]) -> Iterator[Explored]:
    """Run these explorations and yield each when it is done. The longest should come first.

    Args:
        explorations: which.
        tell: called now and then with a line on the progress of a long one.
    """
    global _explorations, _news
    context = multiprocessing.get_context("fork")
    _explorations, _news = explorations, context.SimpleQueue()
    with ProcessPoolExecutor(os.cpu_count(), context) as pool:
        numbers = {pool.submit(_explore, number): number for number in range(len(explorations))}
        waiting = set(numbers)
        while waiting:
            done, waiting = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
            while not _news.empty():
                tell(_news.get())
            for future in done:
                yield Explored(explorations[numbers[future]], *future.result())


def rows(explored: Explored) -> list[str]:
    """One exploration as lines for a terminal: the figures, and the way to a violation."""
    found, without = explored.found, explored.exploration.without
    verdict = "every promise holds" if found.violation is None else f"violation: {found.violation}"
    if without:
        verdict = f"without {without}: {'NO violation' if found.violation is None else verdict}"
    elif found.violation is not None:
        verdict = verdict.upper()
    figures = f"{explored.exploration.name:36}{found.states:>10,}{found.transitions:>12,}{explored.refused:>11,}"
    return [f"{figures}  {verdict}", *(f"    {step}" for step in found.trace)]


def heading() -> str:
    """The line above the rows."""
    return f"{'exploration':36}{'states':>10}{'moves':>12}{'refused':>11}  result"


def closing_words(all_of_them: Sequence[Explored]) -> str:
    """The result, in one line."""
    real = [each for each in all_of_them if not each.exploration.without]
    removals = [each for each in all_of_them if each.exploration.without]
    states = sum(each.found.states for each in real)
    violations = sum(each.found.violation is not None for each in real)
    noticed = sum(each.found.violation is not None for each in removals)
    return (
        f"{states:,} states of real nodes: {violations} violations; "
        f"{len(removals)} checks taken out: {noticed} noticed by a violation"
    )


def as_json(all_of_them: Sequence[Explored]) -> str:
    """One JSON object with one entry per exploration."""
    entries = [
        {
            "exploration": each.exploration.name,
            "without": each.exploration.without or None,
            "states": each.found.states,
            "moves": each.found.transitions,
            "local_states": each.local_states,
            "refused": each.refused,
            "seconds": round(each.found.seconds, 3),
            "violation": each.found.violation,
            "trace": list(each.found.trace),
        }
        for each in all_of_them
    ]
    return json.dumps({"explorations": entries}, indent=2)


def _explore(number: int) -> tuple[Found, int, int]:
    """Run one of them in a worker process. Returns all fields of `Explored` except the exploration itself."""
    exploration, last = _explorations[number], time.monotonic()
    without = f", without {exploration.without}" if exploration.without else ""

    def progress(states: int) -> None:
        nonlocal last
        if _news is not None and time.monotonic() - last > _SECONDS_BETWEEN_NEWS:
            last = time.monotonic()
            _news.put(f"{exploration.name}{without}: {states:,} states so far")

    explored = explore(exploration, progress)
    return explored.found, explored.local_states, explored.refused
