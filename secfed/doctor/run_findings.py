"""What a check-up of an aggregator's folder finds in its runs, of which one may be going on meanwhile. No torch.

A run writes, replaces and removes files while they are looked at, and gathers the hospitals' signatures at its end:
none of that is a fault.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from secfed.aggregator.home import AggregatorHome
from secfed.engines.flare.run_state import RunState, read_state
from secfed.findings import Finding, NotChecked, Warned, look

_WELL = ("completed", "aborted")
"""Ends that somebody wanted."""


def examine_runs(path: Path) -> list[Finding]:
    """One finding for each study whose run has begun."""
    home = AggregatorHome(path)
    return [
        look(f"run of {folder.name[:16]}", _told(home.run(bytes.fromhex(folder.name))))
        for folder in sorted(home.runs.glob("*"))
        if folder.is_dir() and len(folder.name) == 64
    ]


def _told(run: Path) -> Callable[[], str]:
    return lambda: _standing(read_state(run))


def _standing(state: RunState | None) -> str:
    if state is None:
        raise NotChecked("nothing says how far it is", "Look at `secfed federation status`")
    how_far = f"{state.done} of {state.rounds} rounds" if state.rounds else "no round was opened yet"
    ended = state.ended
    if ended is None:
        waits = ", ".join(state.doing.waits_for) if state.doing is not None else ""
        return f"{how_far}, not ended" + (f"; waits for {waits}" if waits else "")
    if ended.how not in _WELL:
        what = ended.text.rstrip(".")
        raise Warned(f"{how_far}; {ended.how}: {what}", "Once that is mended, submit the study again: it goes on there")
    return f"{how_far}, {ended.how}"


def unsigned(home: AggregatorHome, digest: bytes, name: str) -> str:
    """What is to be said of a study without signatures beside it: hospitals sign at their own nodes.

    Raises:
        NotChecked: always.
    """
    begun = read_state(home.run(digest)) is not None
    when = "its run gathers the signatures at its end" if begun else "once it is submitted, its run gathers them"
    raise NotChecked(f"{name} has no signatures.json: each hospital signs at its own node, and {when}")


def file_times(path: Path) -> list[tuple[str, datetime]]:
    """When the files of a folder were written last; of those that are still there when they are looked at."""
    times = []
    for each in path.rglob("*") if path.is_dir() else ():
        with suppress(FileNotFoundError):  # a run that goes on replaces its files
            if each.is_file():
                times.append((each.name, datetime.fromtimestamp(each.stat().st_mtime, UTC)))
    return times
