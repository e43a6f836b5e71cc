"""The report's one picture: epsilon spent after each round, against the budget, as inline SVG.

Written without a library, so that the page needs no script and fetches no font. Colours come from the page's style
sheet by class. The picture names every line, and its description says in words what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 720, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 24, 22, 48
_TICKS = 5
_LABELLED_ROUNDS = 12
_KEY_LINE = 20
_CLASSES = 4
"""Line styles in the page's style sheet."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Cumulative epsilon of one or more sites."""

    label: str
    values: tuple[float, ...]
    """After round 1, 2, and so on."""


def epsilon_plot(curves: Sequence[Curve], budgets: Sequence[float], rounds: int) -> str:
    """An SVG element with one stepped line for each curve and one dashed line for each budget.

    Args:
        curves: sites with the same figures should be one curve.
        budgets: the distinct epsilon budgets.
        rounds: planned rounds; the width of the picture.
    """
    highest = max([*budgets, *(value for curve in curves for value in curve.values), 1e-9])
    step = _nice_step(highest / _TICKS)
    frame = _Frame(rounds, step * math.ceil(1.08 * highest / step))
    parts = [_description(curves, budgets), *_axes(frame, step)]
    parts += [_budget_line(frame, budget) for budget in budgets]
    for number, curve in enumerate(curves):
        parts += _curve(frame, curve, number)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="plot-title plot-text" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where a round and an epsilon lie in the picture."""

    rounds: int
    top: float

    def x(self, round_number: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * round_number / max(self.rounds, 1)

    def y(self, epsilon: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * epsilon / self.top


def _description(curves: Sequence[Curve], budgets: Sequence[float]) -> str:
    ends = "; ".join(
        f"{curve.label}: {curve.values[-1]:.2f} after round {len(curve.values)}" for curve in curves if curve.values
    )
    granted = ", ".join(f"{budget:g}" for budget in budgets)
    text = f"Epsilon spent since the start of the study. {ends}. Budget: {granted}."
    return (
        '<title id="plot-title">Epsilon spent after each round, against the budget</title>'
        f'<desc id="plot-text">{escape(text)}</desc>'
    )


def _axes(frame: _Frame, step: float) -> list[str]:
    parts = []
    for index in range(round(frame.top / step) + 1):
        y = frame.y(index * step)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{index * step:g}</text>'
        )
    every = max(1, math.ceil(frame.rounds / _LABELLED_ROUNDS))
    for number in range(0, frame.rounds + 1, every):
        parts.append(
            f'<text class="tick" x="{frame.x(number):.1f}" y="{_HEIGHT - _BOTTOM + 18}" '
            f'text-anchor="middle">{number}</text>'
        )
    parts.append(
        f'<text class="name" x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - 8}" '
        'text-anchor="middle">round</text>'
        f'<text class="name" x="14" y="{(_TOP + _HEIGHT - _BOTTOM) / 2:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 14 {(_TOP + _HEIGHT - _BOTTOM) / 2:.0f})">epsilon spent</text>'
    )
    return parts


def _budget_line(frame: _Frame, budget: float) -> str:
    y = frame.y(budget)
    return (
        f'<line class="budget" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="label" x="{_LEFT + 6}" y="{y - 6:.1f}">budget granted: {budget:g}</text>'
    )


def _curve(frame: _Frame, curve: Curve, number: int) -> list[str]:
    """A line that rises at every round: nothing is spent between rounds."""
    if not curve.values:
        return []
    path = f"M{frame.x(0):.1f} {frame.y(0):.1f}"
    dots = []
    for round_number, value in enumerate(curve.values, start=1):
        path += f"H{frame.x(round_number):.1f}V{frame.y(value):.1f}"
        dots.append(
            f'<circle class="dot c{number % _CLASSES}" cx="{frame.x(round_number):.1f}" '
            f'cy="{frame.y(value):.1f}" r="3"><title>{escape(curve.label)}, round {round_number}: '
            f"{value:.3f}</title></circle>"
        )
    # The key is at the lower right: a line that only rises leaves that corner free.
    x, y = _WIDTH - _RIGHT - 14, _HEIGHT - _BOTTOM - 16 - _KEY_LINE * number
    key = (
        f'<circle class="dot c{number % _CLASSES}" cx="{x}" cy="{y - 4}" r="5"/>'
        f'<text class="label" x="{x - 12}" y="{y}" text-anchor="end">{escape(curve.label)}</text>'
    )
    return [f'<path class="curve c{number % _CLASSES}" d="{path}"/>', *dots, key]


def _nice_step(rough: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is at least `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
