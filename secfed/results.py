"""What a run leaves when it is over: the first state, the adapter, the ledgers' copies, the summary and the report.

Every engine ends a run here, so that all folders of runs are alike. torch comes with the model that the caller loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dp.ledger_copy import write_copy
from secfed import run_folder
from secfed.chain import Chain
from secfed.strategies import Layout, ModelState
from secfed.study import Study
from secfed.summary import HospitalEnd

if TYPE_CHECKING:
    from dp.sampling import Patients
    from secfed.models import AdapterModel


def write_first_state(out: Path, layout: Layout, first: ModelState) -> None:
    """Write the state from which all hospitals start."""
    (out / run_folder.FIRST_STATE).write_bytes(run_folder.first_state_bytes(layout, first))


def save_adapter(out: Path, study: Study, model: AdapterModel, chain: Chain, test_set: Patients) -> float:
    """Write the adapter that the chain has led to. Gives its accuracy on the held-out set."""
    model.set_state(chain.state.adapter)
    model.save(out / run_folder.ADAPTER, study.model.base)
    return model.accuracy(test_set)


def write_results(out: Path, study: Study, summary: Mapping[str, Any], hospitals: Sequence[HospitalEnd]) -> None:
    """Write what every hospital handed over of its ledger, the summary, and the report that is made from it."""
    from secfed.reports.html import write_report
    from secfed.reports.privacy import build_report

    for hospital in hospitals:
        name = study.roster[hospital.index].name
        (out / run_folder.ledger_file(name)).write_bytes(write_copy(hospital.copy))
    (out / run_folder.SUMMARY).write_text(run_folder.json_text(summary))
    write_report(out, build_report(study, summary))
