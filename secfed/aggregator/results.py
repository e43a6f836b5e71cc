"""Writes what a run leaves: the first state, the adapter, the ledgers' copies, the summary and the report.

Every engine ends a run here, so all folders of runs are alike. Nothing here imports torch; the caller passes the model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dp.ledger_copy import write_copy
from secfed.aggregator.handover import HospitalEnd
from secfed.files.figures import minute_before
from secfed.files.whole import READABLE, json_text, write_whole
from secfed.reports import folder as run_folder
from secfed.rounds.chain import Chain
from secfed.rounds.strategies import Layout, ModelState
from secfed.study.approvals import SIGNATURES
from secfed.study.manifest import Study

if TYPE_CHECKING:
    from dp.sampling import Patients
    from secfed.models.model import AdapterModel

_SINGLE_FILES = (
    SIGNATURES,
    run_folder.FIRST_STATE,
    run_folder.JOURNAL,
    run_folder.SUMMARY,
    run_folder.REPORT,
    run_folder.REPORT_PAGE,
)


def write_first_state(out: Path, layout: Layout, first: ModelState) -> None:
    """Write the state from which all sites start."""
    write_whole(out / run_folder.FIRST_STATE, run_folder.first_state_bytes(layout, first), READABLE)


def save_adapter(out: Path, study: Study, model: AdapterModel, chain: Chain, test_set: Patients) -> dict[str, float]:
    """Write the adapter at the end of the chain. Returns its figures on the held-out set."""
    model.set_state(chain.state.adapter)
    model.save(out / run_folder.ADAPTER, study.model.base)
    return model.measured(test_set)


def write_results(out: Path, study: Study, summary: Mapping[str, Any], hospitals: Sequence[HospitalEnd]) -> None:
    """Write the copy of its ledger that every site handed over, the report, and the summary from which it is made.

    The summary comes last: a folder that has one is finished, and nobody writes a report into it again.
    """
    from secfed.reports.html import write_report
    from secfed.reports.privacy import build_report

    for hospital in hospitals:
        name = study.roster[hospital.index].name
        write_whole(out / run_folder.ledger_file(name), write_copy(hospital.copy), READABLE)
    write_report(out, build_report(study, summary))
    _settle_times(out, summary)
    write_whole(out / run_folder.SUMMARY, json_text(summary).encode(), READABLE)
    _settle_times(out, summary)


def _settle_times(out: Path, summary: Mapping[str, Any]) -> None:
    """Set the times of all files to the minute in which the run ended: archives keep them, and they would tell when
    each round was.

    Only the study keeps the minute in which the run began. Other files in the folder are not part of what is passed on.
    """
    ended = datetime.fromisoformat(summary["finished"]).timestamp()
    folders = [out / name for name in (run_folder.RECEIPTS, run_folder.SUMS, run_folder.LEDGERS, run_folder.ADAPTER)]
    paths = [out / name for name in _SINGLE_FILES if (out / name).exists()]
    for folder in folders:
        paths += [*folder.iterdir(), folder]
    for path in [*paths, out]:
        os.utime(path, (ended, ended))
    study = out / run_folder.STUDY
    began = minute_before(datetime.fromtimestamp(study.stat().st_mtime, UTC)).timestamp()
    os.utime(study, (began, began))
