"""Theory and bounds of every build as one picture: an SVG file that stands by itself.

Written by hand, like the report's picture (`secfed.reports.svg`): no script, and no external font. Every method has a
shape as well as a colour, and the description says in words what the picture shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from audits.privacy.report import Audited
from audits.privacy.settings import Setting
from secfed.errors import UserError

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 190, 110, 30, 52
_HEADER = 34
"""Above the rows of one theory."""
_ROW = 48
_APART = 12
"""Marks of different methods lie on separate lines, so that they do not cover each other."""
_STEPS = (0.5, 1, 2, 5, 10, 20, 50, 100)
_MOST_TICKS = 12
_METHODS = (("one run", "one_run"), ("f-DP", "f_dp"), ("error rates (GDP where nobody is sampled)", "error_rates"))
_STYLE = (
    "svg{background:#fff}text{fill:#1b2733;font:13px system-ui,'Segoe UI',Roboto,Arial,sans-serif}"
    ".tick{fill:#55636f;font-size:12px}.grid{stroke:#d5dde3}.theory{stroke:#b3261e;stroke-width:2;stroke-dasharray:7 5}"
    ".name{font-weight:600}.bad{fill:#b3261e;font-weight:600}.m0{fill:#4b4fa3}.m1{fill:#a8431f}.m2{fill:#0b6e75}"
)


def write_picture(path: Path, audited: Sequence[Audited]) -> None:
    """Write the picture.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        path.write_text(picture(audited), encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"the picture cannot be written to {path} ({error.strerror})",
            "Give the path of a file in a folder that exists",
        ) from error


def picture(audited: Sequence[Audited]) -> str:
    """One row per build, epsilon to the right, a dashed line at the theory. Every text is escaped.

    Args:
        audited: at least one build; those of one setting follow each other.
    """
    highest = 1.05 * max(*(each.theory for each in audited), *(each.bounds.highest for each in audited))
    step = next((each for each in _STEPS if highest / each <= _MOST_TICKS), highest)
    ticks = math.ceil(highest / step)
    scale = (_WIDTH - _LEFT - _RIGHT) / (step * ticks)
    rows: list[str] = []
    y = float(_TOP)
    for setting, group in groupby(audited, lambda each: each.setting):
        members = list(group)
        end = y + _HEADER + _ROW * len(members)
        rows.append(_theory(setting, _LEFT + scale * members[0].theory, y + _HEADER, end))
        rows += [_row(each, y + _HEADER + _ROW * (number + 0.5), scale) for number, each in enumerate(members)]
        y = end
    axis = [_tick(step * tick, _LEFT + scale * step * tick, y) for tick in range(ticks + 1)]
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    name = (
        f'<text class="tick" x="{middle:.0f}" y="{y + 40:.0f}" text-anchor="middle">'
        "smallest epsilon that is not rejected</text>"
    )
    parts = [_description(audited), f"<style>{_STYLE}</style>", _key(), *axis, name, *rows]
    return (
        f'<svg viewBox="0 0 {_WIDTH} {y + _BOTTOM:.0f}" role="img" aria-labelledby="audit-title audit-text" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>\n'
    )


def _tick(epsilon: float, x: float, bottom: float) -> str:
    return (
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom:.1f}"/>'
        f'<text class="tick" x="{x:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{epsilon:g}</text>'
    )


def _theory(setting: Setting, x: float, top: float, bottom: float) -> str:
    away, anchor = (6, "start") if x < (_LEFT + _WIDTH) / 2 else (-6, "end")
    who = setting.mode.value + ("" if setting.gaussian else f", sampled at {setting.sampling_rate:g}")
    return (
        f'<line class="theory" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 8:.1f}" y2="{bottom:.1f}"/>'
        f'<text class="bad" x="{x + away:.1f}" y="{top - 2:.1f}" text-anchor="{anchor}">'
        f"theory: {setting.epsilon:.2f} ({who})</text>"
    )


def _description(audited: Sequence[Audited]) -> str:
    rows = "; ".join(
        f"{each.setting.mode.value}, {each.build.name} (theory {each.theory:.2f}): "
        + ", ".join(f"{name} {getattr(each.bounds, field):.2f}" for name, field in _METHODS)
        + (", flagged" if each.flagged else ", below theory")
        for each in audited
    )
    text = f"Lower bounds on epsilon: {rows}."
    return (
        '<title id="audit-title">Lower bounds on epsilon from the training path, against the theory</title>'
        f'<desc id="audit-text">{escape(text)}</desc>'
    )


def _key() -> str:
    parts = []
    for number, (name, _) in enumerate(_METHODS):
        x = _LEFT + 90 * number
        parts.append(f'{_mark(number, x, 14)}<text x="{x + 12}" y="18">{escape(name)}</text>')
    return "".join(parts)


def _row(audited: Audited, y: float, scale: float) -> str:
    marks = []
    for number, (name, field) in enumerate(_METHODS):
        bound = getattr(audited.bounds, field)
        title = escape(f"{audited.build.name}, {name}: {bound:.2f}")
        marks.append(f"<g><title>{title}</title>{_mark(number, _LEFT + scale * bound, y + _APART * (number - 1))}</g>")
    css, verdict = ("bad", "flagged") if audited.flagged else ("tick", "below theory")
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="name" x="{_LEFT - 12}" y="{y + 4:.1f}" text-anchor="end">{escape(audited.build.name)}</text>'
        f'<text class="{css}" x="{_WIDTH - _RIGHT + 12}" y="{y + 4:.1f}">{verdict}</text>{"".join(marks)}'
    )


def _mark(method: int, x: float, y: float) -> str:
    """A square, a triangle or a circle."""
    if method == 0:
        return f'<rect class="m0" x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10"/>'
    if method == 1:
        return f'<path class="m1" d="M{x:.1f} {y - 7:.1f}L{x + 6.5:.1f} {y + 5:.1f}H{x - 6.5:.1f}Z"/>'
    return f'<circle class="m2" cx="{x:.1f}" cy="{y:.1f}" r="5.5"/>'
