"""Recognises a run that is not finished: which of its last files are missing, and whether only they are.

A run writes its files in a fixed order. If all files after some point are missing, the run still goes on, or was cut
short, or somebody removed the last files of a finished run. Nobody can tell these apart, so the verdict is never that
everything holds. What is there is checked as always, and the missing files are named. If a file is missing and a later
one is there, the file was taken away: the run is broken.
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
    """What is there holds, but the last files of a run are missing.

    Attributes:
        missing: those files, relative to the run's folder, in the order in which a run writes them.
    """

    def __init__(self, missing: Sequence[str]) -> None:
        super().__init__(missing[0], "is missing: the run is not finished, or its last files were taken away")
        self.missing = tuple(missing)


def missing_files(folder: Path, sites: Sequence[str]) -> tuple[str, ...]:
    """The last files of a run that are not there.

    Args:
        folder: of the run.
        sites: the names on its roster; none if there is no study to read them from.

    Returns:
        Their names; none if all files are there, or if a later file is there than one that is missing.
    """
    rounds = tuple(f"{place}/{name}" for place in (RECEIPTS, SUMS) for name in file_names(folder, place))
    # Nodes sign before the first round. In a federation their signatures arrive after the last one.
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
