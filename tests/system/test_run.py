"""A whole run on a tiny model: everything that a user finds afterwards is there, and true."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from crypto.identity import PublicIdentity
from dp.ledger_copy import read_copy
from protocols import sharing
from protocols.receipts import Receipt, sum_digest, verify_receipt
from protocols.wire import Limits, decode
from secfed.cli import main
from secfed.cli.reporters import describe
from secfed.demo.workspace import DemoSettings, prepare_demo
from secfed.engines.embedded.run import execute, prepare
from secfed.models.model import adapter_digest
from secfed.rounds.events import Event, LocalStep, Note, OwnerTold
from secfed.study.changes import write_study
from secfed.study.manifest import load_study
from secfed.study.signing import APPROVAL_LABEL, entry_check
from secfed.verify.folder import verify_folder
from tests.protocols.dealers import dealing, other_sealed_share
from tests.reporters import Recorder
from tests.tiny import make_tiny_base

SETTINGS = DemoSettings(patients=400, test_records_per_chapter=3, layers=(0, 1), max_length=12, steps=7, rank=2)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = make_tiny_base(tmp_path_factory.mktemp("base"))
    folder = tmp_path_factory.mktemp("run") / "workspace"
    prepare_demo(folder, base=base, settings=SETTINGS)
    return folder


@pytest.fixture(scope="module")
def ran(workspace: Path) -> tuple[Path, dict[str, Any], list[Event]]:
    recorder = Recorder()
    result = execute(prepare(workspace / "study.toml", workspace), recorder)
    return workspace, dict(result.summary), recorder.events


def test_both_dropouts_happened_and_every_round_completed(ran: tuple[Path, dict[str, Any], list[Event]]) -> None:
    _, summary, _ = ran
    dropped = {
        each["number"]: [(entry["name"], entry["stage"]) for entry in each["dropped"]] for each in summary["rounds"]
    }
    assert dropped[3] == [("lakeside-hospital", "masked input")]
    assert dropped[6] == [("st-anne-hospital", "advertise")]
    assert not any(each["attempt_void"] for each in summary["rounds"])
    assert [len(each["survivors"]) for each in summary["rounds"]] == [5, 5, 4, 5, 5, 4, 5]


def test_all_hospitals_hold_the_model_that_was_saved(ran: tuple[Path, dict[str, Any], list[Event]]) -> None:
    folder, summary, _ = ran
    assert {each["state_digest"] for each in summary["hospitals"]} == {summary["state_digest"]}
    assert summary["adapter_digest"] == adapter_digest(folder / "adapter")
    assert summary == json.loads((folder / "summary.json").read_text())


def test_the_adapter_loads_with_peft_and_predicts_as_measured(ran: tuple[Path, dict[str, Any], list[Event]]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder, summary, _ = ran
    study = load_study(folder / "study.toml")
    base = AutoModelForSequenceClassification.from_pretrained(folder / "model", num_labels=len(study.task.labels))
    model = PeftModel.from_pretrained(base, folder / "adapter").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    records = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    inputs = tokenizer(
        [record["text"] for record in records],
        max_length=study.model.max_length,
        padding="max_length",
        truncation=True,
        return_tensors="pt",
    )
    inputs.pop("token_type_ids", None)
    predicted = model(**inputs).logits.argmax(1).tolist()
    right = sum(study.task.labels[index] == record["label"] for index, record in zip(predicted, records, strict=True))
    assert right / len(records) == pytest.approx(summary["accuracy_after"])


def test_the_receipts_form_one_chain_over_the_published_sums(ran: tuple[Path, dict[str, Any], list[Event]]) -> None:
    folder, summary, _ = ran
    study = load_study(folder / "study.toml")
    limits = Limits(len(study.roster), 1 << 24)
    head = study.digest
    for each in summary["rounds"]:
        receipt = decode(Receipt, (folder / "receipts" / f"{each['number']:04d}.cbor").read_bytes(), limits, None)
        verify_receipt(
            receipt, study=study.digest, predecessor=head, rules=study.cohort_rules(), roster=study.identities
        )
        packed = (folder / "sums" / f"{each['number']:04d}.bin").read_bytes()
        assert receipt.statement.sum_digest == sum_digest(packed)
        head = receipt.digest()
        assert head.hex() == each["receipt_digest"]


def test_every_hospital_signed_the_study_as_people_read_it(ran: tuple[Path, dict[str, Any], list[Event]]) -> None:
    folder, _, _ = ran
    study = load_study(folder / "study.toml")
    file_digest = hashlib.sha256((folder / "study.toml").read_bytes()).digest()
    signatures = json.loads((folder / "signatures.json").read_text())["signatures"]
    for entry in study.roster:
        identity = PublicIdentity(bytes.fromhex(entry.identity))
        assert identity.verifies(bytes.fromhex(signatures[entry.name]), APPROVAL_LABEL, study.digest, file_digest)


def test_the_ledgers_hold_every_round_and_verify(ran: tuple[Path, dict[str, Any], list[Event]]) -> None:
    folder, summary, _ = ran
    study = load_study(folder / "study.toml")
    for each in summary["hospitals"]:
        away = {"lakeside-hospital": 1, "st-anne-hospital": 1}.get(each["name"], 0)
        assert each["rounds_committed"] == each["rounds_released"] == 7 - away
        assert each["left_epsilon"] == 0.0
        assert each["epsilon"] <= study.privacy.epsilon
        identity = study.identities[each["index"]]
        lines = read_copy(
            (folder / "ledgers" / f"{each['name']}.jsonl").read_bytes(),
            study.digest,
            entry_check(identity),
        ).lines
        assert (len(lines), lines[-1].digest.hex()) == (each["ledger_sequence"], each["ledger_head"])


def test_the_whole_run_verifies_offline(
    ran: tuple[Path, dict[str, Any], list[Event]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, _, _ = ran
    monkeypatch.setattr(sys, "argv", ["secfed", "verify", str(folder), "--json"])
    with pytest.raises(SystemExit) as ending:
        main()
    result = json.loads(capsys.readouterr().out)
    assert (ending.value.code or 0, result["ok"], result["problem"]) == (0, True, None)
    assert result["checked"]["receipts"]["sums"] == 7
    assert result["checked"]["ledgers"]["commits"] == result["checked"]["ledgers"]["releases"] == 33


def test_one_trained_number_changed_in_the_last_bit_is_found(
    ran: tuple[Path, dict[str, Any], list[Event]], tmp_path: Path
) -> None:
    """Under the names that PEFT gives to tensors, frozen ones included."""
    source, _, _ = ran
    for name in load_file(source / "adapter" / "adapter_model.safetensors"):
        folder = tmp_path / name
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("model", "sites"))
        path = folder / "adapter" / "adapter_model.safetensors"
        tensors = load_file(path)
        tensors[name].reshape(-1).view(np.uint32)[-1] ^= 1
        save_file(tensors, path)
        problem = verify_folder(folder).problem
        assert problem is not None
        assert (problem.place, problem.reason.split()[0]) == ("adapter/adapter_model.safetensors", name)


def test_the_report_and_the_progress_are_there(ran: tuple[Path, dict[str, Any], list[Event]]) -> None:
    folder, summary, events = ran
    assert "<svg" in (folder / "report.html").read_text()
    report = json.loads((folder / "report.json").read_text())
    assert summary["study_digest"] in json.dumps(report)
    # As many batches as are planned for each hospital that trained: not the one cut off before, nor the one away.
    study = load_study(folder / "study.toml")
    batches = {entry.name: study.mechanism.plan(index).batches for index, entry in enumerate(study.roster)}
    trained = [name for each in summary["rounds"] for name in each["survivors"]]
    assert sum(isinstance(event, LocalStep) for event in events) == sum(batches[name] for name in trained)


def test_the_same_study_runs_again_in_another_folder(
    ran: tuple[Path, dict[str, Any], list[Event]], tmp_path: Path
) -> None:
    folder, summary, _ = ran
    again = execute(prepare(folder / "study.toml", tmp_path / "again"), Recorder()).summary
    assert again["study_digest"] == summary["study_digest"]
    assert again["accuracy_before"] == summary["accuracy_before"]
    # Noise is fresh: the same study never gives the same model twice.
    assert again["state_digest"] != summary["state_digest"]


def test_help_answers_without_loading_torch() -> None:
    """In a fresh interpreter, as a shell starts it."""
    code = (
        "import sys; sys.argv = ['secfed', '--help']\n"
        "from secfed.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'opacus', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.rstrip().endswith("[]")
    assert "demo" in done.stdout


def test_an_end_as_planned_is_no_news_on_the_screen(ran: tuple[Path, dict[str, Any], list[Event]]) -> None:
    _, summary, events = ran
    assert not summary["rounds"][-1]["attempt_void"], "the study would end before its last round"
    assert [describe(event) for event in events if isinstance(event, OwnerTold)] == []


def test_a_hospital_that_deals_wrong_shares_is_named_to_every_owner(workspace: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    with dealing(4, sharing, "_seal", other_sealed_share(1)):
        result = execute(prepare(workspace / "study.toml", tmp_path), recorder)
    names = [each["name"] for each in result.summary["hospitals"]]
    told = [event for event in recorder.events if isinstance(event, OwnerTold)]
    assert {event.node for event in told} == set(names)
    assert {
        "accused": names[4],
        "by": names[1],
        "kind": "share",
        "signature": result.summary["rounds"][0]["faults"][0]["signature"],
    } in result.summary["rounds"][0]["faults"]
    line = f"  {names[0]} is told: round 1: {names[1]} says (signed) that {names[4]} dealt a share other than"
    assert any((describe(event) or "").startswith(line) for event in told)
    assert verify_folder(tmp_path).problem is None


FIGURES: dict[str, dict[str, Any]] = {
    "fedavg": {"strategy": "fedavg", "local": {"steps": 2, "learning_rate": 0.06}},
    "fedprox (mu 0.1)": {"strategy": "fedprox", "mu": 0.1, "local": {"steps": 2, "learning_rate": 0.06}},
    "fedopt-sgd (server learning rate 0.05, beta1 0.5)": {
        "strategy": "fedopt-sgd",
        "server_learning_rate": 0.05,
        "beta1": 0.5,
    },
}


@pytest.mark.sweep
@pytest.mark.parametrize("words", FIGURES)
def test_a_run_of_another_strategy_says_so_ends_with_one_model_and_verifies(
    tmp_path_factory: pytest.TempPathFactory, words: str
) -> None:
    figures = FIGURES[words]
    folder = tmp_path_factory.mktemp("other") / "workspace"
    mode: Any = "local" if "local" in figures else "distributed"
    settings = replace(SETTINGS, mode=mode, steps=12 if mode == "local" else 6, local_steps=2)
    prepare_demo(folder, base=make_tiny_base(tmp_path_factory.mktemp("base")), settings=settings)
    study = load_study(folder / "study.toml").changed(algorithm={**figures, "rounds": 6})
    write_study(study, folder / "study.toml")
    recorder = Recorder()
    summary = execute(prepare(folder / "study.toml", folder.parent / "out"), recorder).summary
    plan = [event.text for event in recorder.events if isinstance(event, Note) and "privacy plan" in event.text]
    assert len(plan) == 1
    assert f"moved by      {words}, 6 rounds\n" in plan[0]
    assert f"in each of T = {settings.steps} private steps" in plan[0]
    assert "quorum 4, up to 1 may drop out, 1 may collude" in plan[0]
    assert "epsilon 0 of 8 will be left at every site" in plan[0]
    report = json.loads((folder.parent / "out" / "report.json").read_text())
    assert [row["value"] for row in report["parameters"] if row["name"] == "Strategy"] == [words]
    assert {each["state_digest"] for each in summary["hospitals"]} == {summary["state_digest"]}
    assert [len(each["survivors"]) for each in summary["rounds"]] == [5, 5, 4, 5, 5, 4]
    assert verify_folder(folder.parent / "out").problem is None
