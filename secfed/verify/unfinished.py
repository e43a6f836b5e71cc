"""A run that is not finished: which of its last files are not there yet, and whether that is all that ails it.

A run writes its files in one order, so that a folder in which all files after some point are missing can be that of a
run which goes on, or was cut short. It can as well be a finished run from which somebody took the last files. Nobody
can tell the two apart, and neither holds: what is there is checked as always, what is missing is named, and the verdict
is never that everything holds. A file that is missing while a later one is there has been taken away: that is broken.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from secfed.models.adapter import ADAPTER_FILES
from secfed.reports.folder import (
    ADAPTER,
    FIRST_STATE,
    LEDGERS,
    RECEIPTS,
    REPORT,
    REPORT_PAGE,
    STUDY,
    SUMMARY,
    SUMS,
    ledger_file,
)
from secfed.study.approvals import SIGNATURES
from secfed.verify.evidence import Broken, file_names


class NotFinished(Broken):
    """What is there holds, and the last files of a run are missing.

    Attributes:
        missing: those files, relative to the run's folder, in the order in which a run writes them.
    """

    def __init__(self, missing: Sequence[str]) -> None:
        super().__init__(missing[0], "is missing: the run is not finished, or its last files were taken away")
        self.missing = tuple(missing)


def missing_files(folder: Path, sites: Sequence[str]) -> tuple[str, ...]:
    """The last files of a run that are not there.

    Args:
        folder: the run's.
        sites: the names on its roster; none where there is no study to read them from.

    Returns:
        Nothing, where all are there, or where one is missing that a later one comes after.
    """
    rounds = tuple(f"{place}/{name}" for place in (RECEIPTS, SUMS) for name in file_names(folder, place))
    # Nodes sign before the first round; where each has a machine of its own, that comes in after the last.
    groups: tuple[tuple[str, ...], ...] = (
        (STUDY,),
        (FIRST_STATE,),
        rounds,
        (SIGNATURES,),
        tuple(f"{ADAPTER}/{name}" for name in ADAPTER_FILES),
        tuple(map(ledger_file, sites)) or tuple(f"{LEDGERS}/{name}" for name in file_names(folder, LEDGERS)),
        (SUMMARY,),
        (REPORT,),
        (REPORT_PAGE,),
    )
    missing: list[str] = []
    for group in groups:
        there = [place for place in group if (folder / place).exists()]
        if missing and there and group != (SIGNATURES,):
            return ()
        missing += [place for place in group if place not in there]
    return tuple(missing)
