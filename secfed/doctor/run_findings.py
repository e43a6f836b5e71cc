"""Checks the runs in an aggregator's folder; one of them may still be running. No torch.

A live run writes, replaces and removes files during the check, and collects the sites' signatures only at its end. None
of that is a fault.
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
"""Ends that are intended."""


def examine_runs(path: Path) -> list[Finding]:
    """One finding per study whose run has begun."""
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
        raise NotChecked("the run has no state file, so its progress is unknown", "Run `secfed federation status`")
    how_far = f"{state.done} of {state.rounds} rounds" if state.rounds else "no round opened yet"
    ended = state.ended
    if ended is None:
        waits = ", ".join(state.doing.waits_for) if state.doing is not None else ""
        return f"{how_far}, not ended" + (f"; waiting for {waits}" if waits else "")
    if ended.how not in _WELL:
        what = ended.text.rstrip(".")
        raise Warned(
            f"{how_far}; {ended.how}: {what}", "Fix the cause, then submit the study again: it continues from there"
        )
    return f"{how_far}, {ended.how}"


def unsigned(home: AggregatorHome, digest: bytes, name: str) -> str:
    """Report a study without a signatures file. That is normal: sites sign at their own nodes.

    Raises:
        NotChecked: always.
    """
    begun = read_state(home.run(digest)) is not None
    when = "its run collects the signatures at its end" if begun else "once it is submitted, its run collects them"
    raise NotChecked(f"{name} has no signatures.json: each site signs at its own node, and {when}")


def file_times(path: Path) -> list[tuple[str, datetime]]:
    """The latest modification time of a folder's files. Skips files that disappear meanwhile."""
    times = []
    for each in path.rglob("*") if path.is_dir() else ():
        with suppress(FileNotFoundError):  # a live run replaces its files
            if each.is_file():
                times.append((each.name, datetime.fromtimestamp(each.stat().st_mtime, UTC)))
    return times
