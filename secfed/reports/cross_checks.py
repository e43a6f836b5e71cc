"""Two other accountants beside the figure of record: what they say, the rule that each has to keep, and if one fails.

Neither is what was promised. They are asked after the rounds, when the budget is spent; so whatever an accountant ends
with, the report is written, and says that this cross-check failed.
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
    """Both."""

    renyi: Answer
    """By Renyi differential privacy at integer orders, which errs high."""
    prv: Answer
    """By privacy random variables; not asked below `SMALLEST_CROSS_CHECK`."""


def ask_renyi(training: Training, risk: Risk) -> Answer:
    """Renyi differential privacy about what is left of delta for the analysed mechanism."""
    event = training.event
    return _asked(
        lambda: accounting.rdp_epsilon(event.sampling_rate, event.noise_multiplier, event.steps, risk.analysed_delta)
    )


def ask_prv(training: Training, risk: Risk) -> Answer:
    """Privacy random variables about the same; loads Opacus."""
    event = training.event
    if risk.analysed_delta < SMALLEST_CROSS_CHECK:
        return Answer(None)
    return _asked(
        lambda: accounting.prv_epsilon(event.sampling_rate, event.noise_multiplier, event.steps, risk.analysed_delta)
    )


def is_problem(text: str) -> bool:
    """Whether this is what a failed accountant is reported with, and nothing else."""
    return text == _NO_NUMBER or (text.startswith(_ENDED) and bool(_ERROR_NAME.fullmatch(text.removeprefix(_ENDED))))


def renyi_keeps(epsilon: float, record: float) -> bool:
    """The rule of Renyi differential privacy."""
    return epsilon > record


def prv_keeps(epsilon: float, record: float) -> bool:
    """The rule of privacy random variables."""
    return abs(epsilon - record) <= PRV_AGREEMENT


def as_rows(answers: Answers, record: float) -> list[dict[str, Any]]:
    """The report's rows: who was asked, what came, the rule, and whether it is kept; None where there is no figure."""
    return [
        _row(
            "Rényi differential privacy at integer orders, an independent method",
            answers.renyi,
            "it always gives more than the figure of record",
            lambda epsilon: renyi_keeps(epsilon, record),
        ),
        _row(
            "privacy random variables (Opacus), an independent method that is as sharp",
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
    except Exception as error:  # a library's, of which nobody has a list
        name = type(error).__name__
        return Answer(None, _ENDED + (name if _ERROR_NAME.fullmatch(name) else "Exception"))
    return Answer(found) if math.isfinite(found) else Answer(None, _NO_NUMBER)
