"""Cross-checks of the figure of record by two other accountants: the answer, the rule and a failure of each.

The promise does not rest on them. They run after the rounds, when the budget is spent. So the report is written even if
an accountant ends with an error, and says that this cross-check failed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dp import accounting
from dp.accounting import PRV_AGREEMENT, SMALLEST_CROSS_CHECK
from secfed.reports.risk import Risk, Training

_ERROR_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,59}")
_NO_NUMBER = "gave no number"
_ENDED = "the accountant ended with "


@dataclass(frozen=True, slots=True)
class Answer:
    """What one accountant said."""

    epsilon: float | None
    """None where it failed, or was not asked."""
    problem: str = ""
    """Why it failed; empty where it did not."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of both accountants."""

    renyi: Answer
    """By Renyi differential privacy at integer orders, which gives too high a figure."""
    prv: Answer
    """By privacy random variables; not asked below `SMALLEST_CROSS_CHECK`."""


def ask_renyi(training: Training, risk: Risk) -> Answer:
    """Epsilon by Renyi differential privacy, at the delta that is left for the analysed mechanism."""
    event = training.event
    return _asked(
        lambda: accounting.rdp_epsilon(event.sampling_rate, event.noise_multiplier, event.steps, risk.analysed_delta)
    )


def ask_prv(training: Training, risk: Risk) -> Answer:
    """The same by privacy random variables; loads Opacus."""
    event = training.event
    if risk.analysed_delta < SMALLEST_CROSS_CHECK:
        return Answer(None)
    return _asked(
        lambda: accounting.prv_epsilon(event.sampling_rate, event.noise_multiplier, event.steps, risk.analysed_delta)
    )


def is_problem(text: str) -> bool:
    """Whether this is exactly one of the texts that report a failed accountant."""
    return text == _NO_NUMBER or (text.startswith(_ENDED) and bool(_ERROR_NAME.fullmatch(text.removeprefix(_ENDED))))


def renyi_keeps(epsilon: float, record: float) -> bool:
    """Whether an answer by Renyi differential privacy keeps its rule."""
    return epsilon > record


def prv_keeps(epsilon: float, record: float) -> bool:
    """Whether an answer by privacy random variables keeps its rule."""
    return abs(epsilon - record) <= PRV_AGREEMENT


def as_rows(answers: Answers, record: float) -> list[dict[str, Any]]:
    """The report's rows: method, epsilon, rule, and whether epsilon keeps it; None where there is no figure."""
    return [
        _row(
            "Rényi differential privacy at integer orders, an independent method",
            answers.renyi,
            "it always gives more than the figure of record",
            lambda epsilon: renyi_keeps(epsilon, record),
        ),
        _row(
            "privacy random variables (Opacus), an independent and equally tight method",
            answers.prv,
            f"it differs from the figure of record by at most {PRV_AGREEMENT:g}, twice its own tolerance",
            lambda epsilon: prv_keeps(epsilon, record),
        ),
    ]


def _row(by: str, answer: Answer, rule: str, keeps: Callable[[float], bool]) -> dict[str, Any]:
    passed = None if answer.epsilon is None else keeps(answer.epsilon)
    return {"by": by, "epsilon": answer.epsilon, "rule": rule, "passed": passed, "problem": answer.problem}


def _asked(figure: Callable[[], float]) -> Answer:
    try:
        found = float(figure())
    except Exception as error:  # nobody has a list of what the libraries raise
        name = type(error).__name__
        return Answer(None, _ENDED + (name if _ERROR_NAME.fullmatch(name) else "Exception"))
    return Answer(found) if math.isfinite(found) else Answer(None, _NO_NUMBER)
