"""The privacy budget report: `report.json` says what follows from study and summary, and the page shows it.

The report is made again, with the accountant of whoever verifies, and compared: every text exactly, every figure to
within what two accountants may differ by. One figure is taken from it and only bounded: the cross-check by privacy
random variables, which would need Opacus and torch here.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from secfed import __version__
from secfed.account import ACCOUNTANTS_DIFFER
from secfed.reports.html import render_report
from secfed.reports.mechanism import agrees
from secfed.reports.privacy import build_report
from secfed.run_folder import REPORT, REPORT_PAGE, SUMMARY
from secfed.study import Study
from secfed.verify.evidence import Broken, claim, first_difference, read_file, read_json, shortened


def check_report(folder: Path, study: Study, summary: dict[str, Any]) -> None:
    """Check `report.json` and `report.html` against a summary that has been checked.

    Raises:
        Broken: naming the first difference.
    """
    report = read_json(folder, REPORT)
    prv = _claimed_cross_check(report)
    try:
        expected = json.loads(json.dumps(build_report(study, summary, math.nan if prv is None else prv)))
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise Broken(SUMMARY, "lacks something that a report tells, or has it in another form") from error
    if prv is not None and not agrees(prv, expected["accounting"]["epsilon"]):
        raise Broken(REPORT, "its cross-check by privacy random variables is far from the figure of record")
    difference = first_difference(report, expected, ACCOUNTANTS_DIFFER, "it")
    if difference is not None:
        where, said, given = difference
        raise Broken(
            REPORT,
            f"{where.removeprefix('it.')} is {shortened(said)} where study and summary give {shortened(given)} "
            f"(by secfed {__version__})",
        )
    if read_file(folder, REPORT_PAGE) != render_report(report).encode():
        raise Broken(REPORT_PAGE, f"it is not the page of {REPORT} (by secfed {__version__})")


def _claimed_cross_check(report: dict[str, Any]) -> float | None:
    """Its figure; None where it is said that there is none, which the report that is made again has to say, too."""
    checks = claim(REPORT, claim(REPORT, report, "accounting", dict), "cross_checks", list)
    if not checks:
        raise Broken(REPORT, "it has no cross-checks")
    if isinstance(checks[-1], dict) and checks[-1].get("epsilon", 0.0) is None:
        return None
    return claim(REPORT, checks[-1], "epsilon", float)
