"""The last lines of a run's output."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secfed.files.figures import rounded_up
from secfed.study.tasks import figures_in


def closing_words(summary: Mapping[str, Any], study: Path, out: Path) -> str:
    """The end of a run's output, as plain text."""
    rounds, hospitals = summary["rounds"], summary["hospitals"]
    party = "node" if summary["unit"] == "node" else "site"
    completed = [each for each in rounds if not each["attempt_void"]]
    agreeing = [each for each in hospitals if each["state_digest"] == summary["state_digest"]]
    up = max((size for each in rounds for size in each["bytes_up"].values()), default=0)
    last = rounds[-1]
    lines = [
        "",
        *(
            f"{figure.title:<16} {before:.3f} before, {after:.3f} after, on the held-out test set"
            for figure, before, after in figures_in(summary)
        ),
        f"each {summary['unit']:<11} epsilon {rounded_up(hospitals[0]['epsilon'], 2)} "
        f"at delta {hospitals[0]['delta']:g}, {summary['against']}",
        f"rounds           {len(completed)} of {len(rounds)} completed, {_dropouts(rounds)}",
        f"{party + 's':<16} {len(agreeing)} of {len(hospitals)} hold the same model, bit for bit",
        f"sent             at most {up / 1024:.0f} KiB per {party} and round, "
        f"{last['dimension']} numbers of {last['ring_bits']} bits under masks",
        f"took             {summary['seconds']:.0f} s",
        f"adapter          {out / 'adapter'}",
        f"report           {out / 'report.html'}",
        f"check it         secfed verify {out}",
        f"run again        secfed run {study} --out {out.with_name(out.name + '-again')}",
    ]
    return "\n".join(lines)


def overhead_words(seconds: Sequence[float]) -> str:
    """The engine's overhead per round, as one line of plain text."""
    if not seconds:
        return "engine           no round was completed"
    return (
        f"engine           {statistics.median(seconds):.2f} s per round beside the slowest site's training "
        f"(median of {len(seconds)}; at most {max(seconds):.2f} s)"
    )


def _dropouts(rounds: list[Mapping[str, Any]]) -> str:
    dropped = [(each["number"], entry) for each in rounds for entry in each["dropped"]]
    if not dropped:
        return "nobody dropped out"
    told = [f"{entry['name']} from {entry['stage']} on in round {number}" for number, entry in dropped]
    return "absent: " + ", ".join(told)
