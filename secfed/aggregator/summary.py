"""`summary.json`: the result of a run, for programs. The report is made from it.

It is passed on, so its durations are whole minutes: how long a round took can tell something about the patients drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dp.entries import Entry
from secfed.aggregator.handover import HospitalEnd
from secfed.aggregator.records import RoundRecord
from secfed.files.figures import minute_after, minute_before, whole_minutes
from secfed.models.adapter import ADAPTER_FILES
from secfed.reports.folder import ADAPTER
from secfed.rounds.chain import Chain
from secfed.rounds.faults import told_claim
from secfed.rounds.run_facts import RunKind, against_in_short, coordinators_word, how_it_ran
from secfed.study.base import files_digest
from secfed.study.manifest import Study

if TYPE_CHECKING:
    pass

_LIBRARIES = ("secfed", "torch", "opacus", "peft", "transformers", "dp-accounting", "cryptography", "numpy")


def summarise(
    study: Study,
    out: Path,
    records: Sequence[RoundRecord],
    hospitals: Sequence[HospitalEnd],
    chain: Chain,
    *,
    epsilon_by_round: tuple[float, ...],
    figures: tuple[Mapping[str, float], Mapping[str, float]],
    times: tuple[datetime, datetime, float],
    engine: str,
) -> dict[str, Any]:
    """Everything that `summary.json` holds.

    Args:
        study: what was run.
        out: the run's folder; the adapter is there already.
        records: every round.
        hospitals: every site, after the last round, in roster order.
        chain: the coordinator's chain.
        epsilon_by_round: nominal epsilon after each round.
        figures: those of the task on the held-out set, by name: before, and after.
        times: start, end, seconds.
        engine: what carried the messages.
    """
    started, finished, seconds = times
    how = how_it_ran([entry.name for entry in study.roster], [hospital.facts for hospital in hospitals])
    return {
        "study": study.name,
        "study_digest": study.digest.hex(),
        "adapter_digest": files_digest(out / ADAPTER, ADAPTER_FILES),
        "state_digest": chain.state.digest(chain.layout).hex(),
        "engine": engine,
        "how_it_ran": how,
        "coordinators_word": coordinators_word(study),
        "mode": study.privacy.mode,
        "unit": study.privacy.protects.value,
        "against": against_in_short(study, RunKind(how["kind"])),
        "clip": chain.state.clip,
        **{name: figures[at][figure.name] for figure in study.task.figures for at, name in enumerate(figure.keys)},
        "seconds": whole_minutes(seconds),
        "hospitals": [_hospital(study, hospital, records, epsilon_by_round) for hospital in hospitals],
        "rounds": [_round(record, chain, study) for record in records],
        "versions": {library: version(library) for library in _LIBRARIES},
        "started": minute_before(started).isoformat(timespec="seconds"),
        "finished": minute_after(finished).isoformat(timespec="seconds"),
    }


def _hospital(
    study: Study, hospital: HospitalEnd, records: Sequence[RoundRecord], epsilon_by_round: tuple[float, ...]
) -> Mapping[str, Any]:
    copy, entry = hospital.copy, study.roster[hospital.index]
    entries, balance, totals = copy.entries, copy.balance, copy.totals
    committed = _rounds_of(entries, "commit")
    # Before the first commit nothing is spent. After k commits the cost of k rounds is.
    curve = (0.0, *epsilon_by_round)
    spent = [curve[sum(number <= record.number for number in committed)] for record in records]
    return {
        "name": entry.name,
        "index": hospital.index,
        "population": copy.population,
        "patients_nominal": entry.patients,
        "epsilon": epsilon_by_round[-1],
        "delta": study.privacy.delta,
        "epsilon_by_round": spent,
        "noise_multiplier": study.privacy.noise_multiplier,
        "budget_epsilon": float(balance.granted_epsilon),
        "budget_delta": float(balance.granted_delta),
        "budget_since": copy.grant.time if copy.grant is not None else "",
        "disjoint": str(copy.grant.body["disjoint"]) if copy.grant is not None else "",
        "studies": totals.studies,
        "reserved_epsilon": float(totals.reserved_epsilon),
        "reserved_delta": float(totals.reserved_delta),
        "spent_epsilon": float(totals.spent_epsilon),
        "spent_delta": float(totals.spent_delta),
        "left_epsilon": float(balance.left_epsilon),
        "left_delta": float(balance.left_delta),
        "rounds_committed": len(committed),
        "rounds_released": len(_rounds_of(entries, "release")),
        "ledger_sequence": len(copy.lines),
        "ledger_head": copy.lines[-1].digest.hex(),
        "state_digest": hospital.state.hex(),
    }


def _rounds_of(entries: Sequence[Entry], kind: str) -> set[int]:
    """The rounds with an entry of this kind."""
    return {int(entry.body["round"]) for entry in entries if entry.kind == kind}


def _round(record: RoundRecord, chain: Chain, study: Study) -> Mapping[str, Any]:
    return {
        "number": record.number,
        "attempt_void": record.void,
        "void_reason": record.reason,
        "cohort": list(record.cohort),
        "survivors": list(record.survivors),
        "dropped": [{"name": name, "stage": stage} for name, stage in record.dropped],
        "quorum": record.quorum,
        "seconds": whole_minutes(record.seconds),
        "bytes_up": dict(record.bytes_up),
        "bytes_down": dict(record.bytes_down),
        "ring_bits": chain.shape.ring_bits,
        "dimension": chain.shape.dimension,
        "sum_digest": record.sum_digest,
        "receipt_digest": record.receipt_digest,
        "faults": [told_claim(study, claim) for claim in record.faults],
    }
