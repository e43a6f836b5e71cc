"""Writes a report as a page and as its machine-readable twin.

The page is one file without scripts. A browser fetches nothing for it, no picture and no font. It shows only what
`report.json` holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from protocols.errors import FaultKind
from secfed.errors import UserError
from secfed.files.figures import percent, rounded_up, scientific, tiny, with_hundredths
from secfed.files.whole import READABLE, write_whole
from secfed.reports.svg import Curve, epsilon_plot
from secfed.rounds.faults import what_it_did
from secfed.study.tasks import figures_in

_CURVES_MAX = 4
"""If there are more different figures than this, two curves are drawn: the least and the most spent."""
_NAMES_MAX = 2
"""A curve of more sites than this is labelled with their number."""


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write `report.json` and `report.html` into an existing folder.

    Raises:
        UserError: a file cannot be written.
    """
    texts = {
        "report.json": json.dumps(report, indent=2, ensure_ascii=False) + "\n",
        "report.html": render_report(report),
    }
    try:
        for name, text in texts.items():
            write_whole(folder / name, text.encode(), READABLE)
    except OSError as error:
        raise UserError(
            f"the privacy budget report cannot be written to {folder} ({error.strerror})",
            "Check the folder and its free space",
        ) from error


def render_report(report: Mapping[str, Any]) -> str:
    """The page, as one self-contained HTML document. Every value is escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "up": rounded_up,
        "size": _size,
        "percent": percent,
        "epsilon": with_hundredths,
        "scientific": scientific,
        "voucher": lambda kind: kind.split()[0],
        "tiny": tiny,
        "duration": _duration,
        "moment": lambda text: text[:19].replace("T", " "),
        "stage": lambda text: text.replace("_", " "),
        "measured": figures_in,
        "did": lambda kind: what_it_did(FaultKind[kind.upper().replace("-", "_")]),
    }
    template = environment.from_string(files("secfed.reports").joinpath("report.html.j2").read_text("utf-8"))
    curves = _curves(report["hospitals"], report["parties"]["called"])
    budgets = sorted({each["budget_epsilon"] for each in report["hospitals"]})
    # The only markup that does not come from the template; `epsilon_plot` escapes its input.
    plot = Markup(epsilon_plot(curves, budgets, report["run"]["rounds_planned"]))  # noqa: S704
    return template.render(report=report, plot=plot, cumulative=_cumulative(report["hospitals"]))


def _curves(hospitals: Sequence[Mapping[str, Any]], party: str) -> list[Curve]:
    """One curve for all sites that spent the same after every round, the largest group first."""
    groups: dict[tuple[float, ...], list[str]] = {}
    for each in hospitals:
        groups.setdefault(tuple(each["epsilon_by_round"]), []).append(each["name"])
    if len(groups) == 1:
        return [Curve(f"every {party}", next(iter(groups)))]
    if len(groups) > _CURVES_MAX:
        ordered = sorted(groups, key=lambda values: values[-1] if values else 0.0)
        return [Curve("most spent", ordered[-1]), Curve("least spent", ordered[0])]
    by_size = sorted(groups.items(), key=lambda group: -len(group[1]))
    return [
        Curve(" and ".join(names) if len(names) <= _NAMES_MAX else f"{len(names)} {party}s", values)
        for values, names in by_size
    ]


def _cumulative(hospitals: Sequence[Mapping[str, Any]]) -> list[float]:
    """The most that any site's patients had spent after each round."""
    longest = max(len(each["epsilon_by_round"]) for each in hospitals)
    return [
        max(each["epsilon_by_round"][index] for each in hospitals if len(each["epsilon_by_round"]) > index)
        for index in range(longest)
    ]


def _size(count: float) -> str:
    """Bytes for people: 172.4 kB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
