"""Checks the privacy budget report: `report.json` must follow from study and summary, and the page must show it.

The verifier makes the report again with its own accountant and compares: every text exactly, every figure to within
what two accountants may differ by. Two things it takes from the report and only checks against their rule. One is the
cross-check by privacy random variables, which would need Opacus and torch here. The other is that a cross-check failed,
which only its maker can know. The promise does not rest on a failed cross-check, and the verdict names it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dp.accounting import SMALLEST_CROSS_CHECK
from secfed import __version__
from secfed.reports.cross_checks import Answer, Answers, ask_renyi, is_problem, prv_keeps, renyi_keeps
from secfed.reports.folder import REPORT, REPORT_PAGE, SUMMARY
from secfed.reports.html import render_report
from secfed.reports.privacy import build_report
from secfed.reports.risk import Training, assess
from secfed.study.account import ACCOUNTANTS_DIFFER, event_of, noise_of
from secfed.study.manifest import Study
from secfed.verify.evidence import Broken, claim, first_difference, read_file, read_json, shortened


def check_report(folder: Path, study: Study, summary: dict[str, Any], with_page: bool = True) -> tuple[str, ...]:
    """Check `report.json` and, with its page, `report.html` against a summary that has been checked.

    Returns:
        The cross-checks that failed, in words; usually none.

    Raises:
        Broken: naming the first difference.
    """
    report = read_json(folder, REPORT)
    others = _settled(report, study)
    try:
        expected = json.loads(json.dumps(build_report(study, summary, others)))
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise Broken(SUMMARY, "lacks a value that the report needs, or has it in another form") from error
    difference = first_difference(report, expected, ACCOUNTANTS_DIFFER, "it")
    if difference is not None:
        where, said, given = difference
        raise Broken(
            REPORT,
            f"{where.removeprefix('it.')} is {shortened(said)}, but study and summary give {shortened(given)} "
            f"({_whose_words(summary)})",
        )
    if with_page and read_file(folder, REPORT_PAGE) != render_report(report).encode():
        raise Broken(REPORT_PAGE, f"it is not the page of {REPORT} ({_whose_words(summary)})")
    named = {"Rényi differential privacy": others.renyi, "privacy random variables": others.prv}
    return tuple(f"its cross-check by {name} failed: {each.problem}" for name, each in named.items() if each.problem)


def _whose_words(summary: dict[str, Any]) -> str:
    """The version that compares, and the version that is said to have made the report: their words may differ."""
    made = str(dict(summary["versions"]).get("secfed"))
    if made == __version__:
        return f"by secfed {__version__}"
    return f"by secfed {__version__}, and the run is said to be of {shortened(made)}: verify it with that version, too"


def _settled(report: dict[str, Any], study: Study) -> Answers:
    """The answers that the report's cross-checks must have: our own where we have one, else the claimed one if it keeps
    its rule.

    Raises:
        Broken: a claim does not keep its rule, or is not a valid claim.
    """
    training = Training(event_of(study), study.privacy.delta, noise_of(study))
    risk = assess(training)
    renyi, prv = _claimed(report)
    own = ask_renyi(training, risk)
    if renyi.epsilon is not None and not renyi_keeps(renyi.epsilon, risk.epsilon) and own.epsilon is None:
        raise Broken(REPORT, "its cross-check by Rényi differential privacy is below the figure of record")
    if prv.epsilon is not None and not prv_keeps(prv.epsilon, risk.epsilon):
        raise Broken(REPORT, "its cross-check by privacy random variables is far from the figure of record")
    if prv.epsilon is None and not prv.problem and risk.analysed_delta >= SMALLEST_CROSS_CHECK:
        raise Broken(REPORT, "it says that there is no cross-check by privacy random variables, but one is due")
    return Answers(renyi if renyi.problem or own.problem else own, prv)


def _claimed(report: dict[str, Any]) -> tuple[Answer, Answer]:
    """Both cross-checks as the report claims them."""
    rows = claim(REPORT, claim(REPORT, report, "accounting", dict), "cross_checks", list)
    if len(rows) != 2:
        raise Broken(REPORT, "it must have exactly two cross-checks")
    renyi, prv = map(_answer, rows)
    if renyi.epsilon is None and not renyi.problem:
        raise Broken(REPORT, "it has no cross-check by Rényi differential privacy, and does not say why")
    return renyi, prv


def _answer(row: Any) -> Answer:
    problem = claim(REPORT, row, "problem", str)
    if problem and not is_problem(problem):
        raise Broken(REPORT, "it gives an unknown reason for a failed cross-check")
    if isinstance(row, dict) and row.get("epsilon", 0.0) is None:
        return Answer(None, problem)
    if problem:
        raise Broken(REPORT, "it gives a figure from a cross-check that failed")
    return Answer(claim(REPORT, row, "epsilon", float))
