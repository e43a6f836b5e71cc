"""Replaces a comment in a page, `<!-- picture: NAME -->`, with a picture that the project's own code draws."""

from __future__ import annotations

import re
from collections.abc import Callable

from dp.accounting import epsilon
from secfed.reports.svg import Curve, epsilon_plot

_MARK = re.compile(r"<!-- picture: (\w+) -->")


def drawn(page: str) -> str:
    """The page with its pictures.

    Raises:
        KeyError: a comment names no picture.
    """
    return _MARK.sub(lambda mark: f'<figure class="picture">{_PICTURES[mark[1]]()}</figure>', page)


def _noise() -> str:
    """How epsilon depends on the noise, with the demo's sampling rate and delta."""
    rounds, budget = 20, 8.0
    curves = [
        Curve(f"noise multiplier {sigma}", tuple(epsilon(0.06, sigma, steps, 1e-5) for steps in range(1, rounds + 1)))
        for sigma in (0.65, 1.0)
    ]
    caption = (
        "Epsilon after each round, for two noise multipliers. A patient is drawn with probability 0.06; delta is 1e-5, "
        "all of it for the analysed mechanism."
    )
    return f"{epsilon_plot(curves, [budget], rounds)}<figcaption>{caption}</figcaption>"


_PICTURES: dict[str, Callable[[], str]] = {"noise": _noise}
