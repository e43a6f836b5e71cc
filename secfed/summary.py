"""`summary.json`: what a run came to, for machines. The report is made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from dp.ledger import Ledger
from secfed.account import against_in_short, is_simulation
from secfed.adapter import ADAPTER_FILES, files_digest
from secfed.chain import Chain
from secfed.coordinator import RoundRecord
from secfed.faults import told_claim
from secfed.node import Node
from secfed.run_folder import ADAPTER
from secfed.study import Study

if TYPE_CHECKING:
    from secfed.run import Plan

_LIBRARIES = ("secfed", "torch", "opacus", "peft", "transformers", "dp-accounting", "cryptography", "numpy")


def summarise(
    plan: Plan,
    records: Sequence[RoundRecord],
    nodes: Sequence[Node],
    chain: Chain,
    *,
    accuracy: tuple[float, float],
    times: tuple[datetime, datetime, float],
    engine: str,
) -> dict[str, Any]:
    """All of it.

    Args:
        plan: what was run.
        records: every round.
        nodes: the hospitals, after the last round.
        chain: the coordinator's chain.
        accuracy: on the held-out set, before and after.
        times: start, end, seconds.
        engine: what carried the messages.
    """
    started, finished, seconds = times
    return {
        "study": plan.study.name,
        "study_digest": plan.study.digest.hex(),
        "adapter_digest": files_digest(plan.out / ADAPTER, ADAPTER_FILES),
        "state_digest": chain.state.digest(chain.layout).hex(),
        "engine": engine,
        "mode": plan.study.privacy.mode,
        "unit": plan.study.privacy.protects.value,
        "against": against_in_short(plan.study, is_simulation(engine)),
        "clip": chain.state.clip,
        "accuracy_before": accuracy[0],
        "accuracy_after": accuracy[1],
        "seconds": round(seconds, 2),
        "hospitals": [_hospital(plan, node, records) for node in nodes],
        "rounds": [_round(record, chain, plan.study) for record in records],
        "versions": {library: version(library) for library in _LIBRARIES},
        "started": started.isoformat(timespec="seconds"),
        "finished": finished.isoformat(timespec="seconds"),
    }


def _hospital(plan: Plan, node: Node, records: Sequence[RoundRecord]) -> Mapping[str, Any]:
    ledger = node.parts.ledger
    population = node.parts.policy.budget.population
    balance = ledger.balance(population)
    committed = _rounds_of(plan.study, ledger, "commit")
    # Before the first commit nothing is spent; after k commits, what k rounds cost.
    curve = (0.0, *plan.epsilon_by_round)
    spent = [curve[sum(number <= record.number for number in committed)] for record in records]
    return {
        "name": node.parts.name,
        "index": node.index,
        "population": population,
        "patients_nominal": plan.study.roster[node.index].patients,
        "epsilon": plan.epsilon_by_round[-1],
        "delta": plan.study.privacy.delta,
        "epsilon_by_round": spent,
        "noise_multiplier": plan.study.privacy.noise_multiplier,
        "budget_epsilon": float(balance.granted_epsilon),
        "budget_delta": float(balance.granted_delta),
        "left_epsilon": float(balance.left_epsilon),
        "left_delta": float(balance.left_delta),
        "rounds_committed": len(committed),
        "rounds_released": len(_rounds_of(plan.study, ledger, "release")),
        "ledger_sequence": ledger.sequence,
        "ledger_head": ledger.head.hex(),
        "state_digest": node.chain.state.digest(node.chain.layout).hex(),
    }


def _rounds_of(study: Study, ledger: Ledger, kind: str) -> set[int]:
    """The rounds of this study with an entry of this kind."""
    entries = (entry for entry in ledger.entries() if entry.kind == kind)
    return {int(entry.body["round"]) for entry in entries if entry.body["study"] == study.digest.hex()}


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
