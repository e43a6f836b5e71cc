"""`summary.json`: what a run came to, for machines. The report is made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dp.entries import Entry, balance_of
from secfed.account import against_in_short, is_simulation
from secfed.adapter import ADAPTER_FILES, files_digest
from secfed.chain import Chain
from secfed.coordinator import RoundRecord
from secfed.faults import told_claim
from secfed.run_folder import ADAPTER
from secfed.study import Study

if TYPE_CHECKING:
    from secfed.node import Node

_LIBRARIES = ("secfed", "torch", "opacus", "peft", "transformers", "dp-accounting", "cryptography", "numpy")


@dataclass(frozen=True, slots=True)
class HospitalEnd:
    """Where one hospital stands after the last round."""

    index: int
    """Its place in the roster."""
    entries: tuple[Entry, ...]
    """Its whole ledger."""
    state: bytes
    """Digest of the model's state that it holds."""

    @classmethod
    def of(cls, node: Node) -> HospitalEnd:
        """Of a node in this process."""
        return cls(node.index, node.parts.ledger.entries(), node.chain.state.digest(node.chain.layout))

    def population(self, study: Study) -> str:
        """Whose budget paid for the study. Raises ValueError when its ledger reserved nothing for it."""
        for entry in self.entries:
            if entry.kind == "reserve" and entry.body["study"] == study.digest.hex():
                return str(entry.body["population"])
        raise ValueError(f"the ledger of {study.roster[self.index].name} holds no reservation for the study")


def summarise(
    study: Study,
    out: Path,
    records: Sequence[RoundRecord],
    hospitals: Sequence[HospitalEnd],
    chain: Chain,
    *,
    epsilon_by_round: tuple[float, ...],
    accuracy: tuple[float, float],
    times: tuple[datetime, datetime, float],
    engine: str,
) -> dict[str, Any]:
    """All of it.

    Args:
        study: what was run.
        out: the run's folder; the adapter is there already.
        records: every round.
        hospitals: every hospital, after the last round, in roster order.
        chain: the coordinator's chain.
        epsilon_by_round: nominal epsilon after each round.
        accuracy: on the held-out set, before and after.
        times: start, end, seconds.
        engine: what carried the messages.
    """
    started, finished, seconds = times
    return {
        "study": study.name,
        "study_digest": study.digest.hex(),
        "adapter_digest": files_digest(out / ADAPTER, ADAPTER_FILES),
        "state_digest": chain.state.digest(chain.layout).hex(),
        "engine": engine,
        "mode": study.privacy.mode,
        "unit": study.privacy.protects.value,
        "against": against_in_short(study, is_simulation(engine)),
        "clip": chain.state.clip,
        "accuracy_before": accuracy[0],
        "accuracy_after": accuracy[1],
        "seconds": round(seconds, 2),
        "hospitals": [_hospital(study, hospital, records, epsilon_by_round) for hospital in hospitals],
        "rounds": [_round(record, chain, study) for record in records],
        "versions": {library: version(library) for library in _LIBRARIES},
        "started": started.isoformat(timespec="seconds"),
        "finished": finished.isoformat(timespec="seconds"),
    }


def _hospital(
    study: Study, hospital: HospitalEnd, records: Sequence[RoundRecord], epsilon_by_round: tuple[float, ...]
) -> Mapping[str, Any]:
    entries, entry = hospital.entries, study.roster[hospital.index]
    population = hospital.population(study)
    balance = balance_of(entries, population)
    committed = _rounds_of(study, entries, "commit")
    # Before the first commit nothing is spent; after k commits, what k rounds cost.
    curve = (0.0, *epsilon_by_round)
    spent = [curve[sum(number <= record.number for number in committed)] for record in records]
    return {
        "name": entry.name,
        "index": hospital.index,
        "population": population,
        "patients_nominal": entry.patients,
        "epsilon": epsilon_by_round[-1],
        "delta": study.privacy.delta,
        "epsilon_by_round": spent,
        "noise_multiplier": study.privacy.noise_multiplier,
        "budget_epsilon": float(balance.granted_epsilon),
        "budget_delta": float(balance.granted_delta),
        "left_epsilon": float(balance.left_epsilon),
        "left_delta": float(balance.left_delta),
        "rounds_committed": len(committed),
        "rounds_released": len(_rounds_of(study, entries, "release")),
        "ledger_sequence": len(entries),
        "ledger_head": entries[-1].digest.hex(),
        "state_digest": hospital.state.hex(),
    }


def _rounds_of(study: Study, entries: Sequence[Entry], kind: str) -> set[int]:
    """The rounds of this study with an entry of this kind."""
    found = (entry for entry in entries if entry.kind == kind)
    return {int(entry.body["round"]) for entry in found if entry.body["study"] == study.digest.hex()}


def _round(record: RoundRecord, chain: Chain, study: Study) -> Mapping[str, Any]:
    return {
        "number": record.number,
        "attempt_void": record.void,
        "void_reason": record.reason,
        "cohort": list(record.cohort),
        "survivors": list(record.survivors),
        "dropped": [{"name": name, "stage": stage} for name, stage in record.dropped],
        "quorum": record.quorum,
        "seconds": round(record.seconds, 3),
        "bytes_up": dict(record.bytes_up),
        "bytes_down": dict(record.bytes_down),
        "ring_bits": chain.shape.ring_bits,
        "dimension": chain.shape.dimension,
        "sum_digest": record.sum_digest,
        "receipt_digest": record.receipt_digest,
        "faults": [told_claim(study, claim) for claim in record.faults],
    }
