"""A run's folder without torch: a formula federation writes everything that a real run writes, with the same code."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from dp.ledger_copy import write_copy
from protocols.wire import encode
from secfed.aggregator.handover import HospitalEnd
from secfed.aggregator.summary import summarise
from secfed.engines.embedded.channel import ENGINE, Cut
from secfed.files.whole import json_text
from secfed.models.adapter import CONFIG_FILE, WEIGHTS_FILE, frozen_start, loading_arguments
from secfed.node.books import hand_over
from secfed.node.node import Node
from secfed.reports import folder as run_folder
from secfed.reports.html import write_report
from secfed.reports.privacy import build_report
from secfed.study.account import epsilon_by_round
from secfed.study.approvals import SIGNATURES, signatures_text, study_file_digest
from secfed.study.manifest import load_study
from tests.secfed.federation import Federation, FormulaTrainer, study_values

FROZEN = "base_model.model.layer.lora_A.weight"


def study_text(**changes: Any) -> str:
    """The formula study as TOML, with a comment that no digest of values would cover."""
    lines = ["# a comment that people read before they sign"]
    tables: list[str] = []
    for name, value in study_values(**changes).items():
        if isinstance(value, dict):
            tables += [f"[{name}]", *(f"{key} = {_toml(entry)}" for key, entry in value.items() if entry is not None)]
        elif name == "roster":
            for node in value:
                tables += ["[[roster]]", *(f"{key} = {json.dumps(entry)}" for key, entry in node.items())]
        else:
            lines.append(f"{name} = {json.dumps(value)}")
    return "\n".join([*lines, *tables]) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {json.dumps(entry)}" for key, entry in value.items()) + " }"
    return json.dumps(value)


def write_run(out: Path, work: Path, cuts: tuple[Cut, ...] = (), **changes: Any) -> Federation:
    """Run the formula study, with these changes to its sections, in `work`, and write its folder to `out`."""
    for name in (run_folder.RECEIPTS, run_folder.SUMS, run_folder.LEDGERS, run_folder.ADAPTER):
        (out / name).mkdir(parents=True)
    work.mkdir()
    (out / run_folder.STUDY).write_text(study_text(**changes))
    study = load_study(out / run_folder.STUDY)
    federation = Federation(study, work, cuts=cuts)
    coordinator, records = federation.run()
    write_agreement(out, federation)
    for receipt, packed in federation.kept:
        number = receipt.statement.round_number
        (out / run_folder.receipt_file(number)).write_bytes(encode(receipt))
        (out / run_folder.sum_file(number)).write_bytes(packed)
    write_adapter(out, federation, coordinator.chain.state.adapter)
    write_ledgers(out, federation)
    now = datetime.now(UTC)
    summary = summarise(
        study,
        out,
        records,
        [end_of(node) for node in federation.nodes],
        coordinator.chain,
        epsilon_by_round=epsilon_by_round(study),
        figures=({"accuracy": 0.25}, {"accuracy": 0.75}),
        times=(now, now, 1.0),
        engine=ENGINE,
    )
    (out / run_folder.SUMMARY).write_text(json_text(summary))
    write_report(out, build_report(study, summary))
    return federation


def write_agreement(out: Path, federation: Federation) -> None:
    study_file = (out / run_folder.STUDY).read_bytes()
    approvals = [node.approve(study_file_digest(study_file)) for node in federation.nodes]
    (out / SIGNATURES).write_text(signatures_text(federation.study, study_file, approvals))
    first = run_folder.first_state_bytes(FormulaTrainer.layout, FormulaTrainer.first_state())
    (out / run_folder.FIRST_STATE).write_bytes(first)


def write_adapter(out: Path, federation: Federation, vector: np.ndarray) -> None:
    tensors = {"a": vector[:5].copy(), "b": vector[5:].reshape(2, 3).copy()}
    tensors[FROZEN] = frozen_start(federation.study.digest, FROZEN, (2, 4))
    save_file(tensors, out / run_folder.ADAPTER / WEIGHTS_FILE)
    lora = federation.study.lora
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "model",
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
        "use_dora": False,
        "auto_mapping": loading_arguments(federation.study.task.classes, 0),
    }
    (out / run_folder.ADAPTER / CONFIG_FILE).write_text(json.dumps(config))


def write_ledgers(out: Path, federation: Federation) -> None:
    for node in federation.nodes:
        copy = write_copy(end_of(node).copy)
        (out / run_folder.ledger_file(node.parts.name)).write_bytes(copy)


def end_of(node: Node) -> HospitalEnd:
    """Where a node stands, at which the study is closed."""
    copy = hand_over(node)
    assert copy is not None
    return HospitalEnd(node.index, copy)
