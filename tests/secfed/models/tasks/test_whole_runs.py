"""A study that writes, and one that tags, from records to the verified adapter, in one process."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import secfed
from secfed.engines.embedded.workspace import make_workspace
from secfed.models.trainers import open_study_model
from tests.causal import write_causal_base
from tests.tiny import WORDS, make_tiny_base

GENERATE: dict[str, Any] = {
    "kind": "generate",
    "prompt": "{symptom} of the {place}",
    "answer": "{finding}",
    "answer_tokens": 4,
}
FINDINGS = {"lung": "infection fever", "bone": "fracture", "skin": "burn", "heart": "chronic failure"}


class Screen:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def show(self, event: secfed.Event) -> None:
        if isinstance(event, secfed.Note):
            self.texts.append(event.text)


def written(number: int) -> dict[str, str]:
    place = sorted(FINDINGS)[number % 4]
    return {"patient": f"p{number}", "symptom": "acute pain", "place": place, "finding": FINDINGS[place]}


def tagged(number: int) -> dict[str, Any]:
    words = [WORDS[(number * step + 3) % len(WORDS)] for step in (1, 2, 5)]
    return {"patient": f"p{number}", "words": words, "labels": ["X" if "t" in word else "O" for word in words]}


def run(folder: Path, base: Path, row: Any, rounds: int = 20, **changes: Any) -> tuple[dict[str, Any], Screen]:
    """Little noise, many small steps: what is tried here is that something is learnt, and everything agrees."""
    sites = {f"site-{name}": [row(1000 * at + number) for number in range(200)] for at, name in enumerate("abc")}
    figures = {
        "algorithm": {"strategy": "fedopt-adam", "rounds": rounds, "server_learning_rate": 0.03, "physical_batch": 8},
        "privacy": {"epsilon": 30.0, "sampling_rate": 0.5, "records_per_patient": 1, "clip": 1.0, "delta": 1e-4},
        "cohort": {"colluders": 1, "tolerated_dropouts": 0, "minimum": 3},
    }
    study = make_workspace(
        folder, base=base, sites=sites, test=[row(number) for number in range(5000, 5020)], **figures | changes
    )
    screen = Screen()
    result = secfed.execute(secfed.prepare(study, folder / "run"), screen)
    assert secfed.verify_folder(folder / "run").problem is None
    return dict(result.summary), screen


@pytest.mark.sweep
def test_a_study_that_writes_learns_and_is_verified_and_its_adapter_is_plain_pefts(tmp_path: Path) -> None:
    base = write_causal_base(tmp_path / "base", hidden_size=32)
    lora = {"rank": 1, "alpha": 8, "targets": ["q_proj", "v_proj", "o_proj", "down_proj"], "layers": None}
    folder = tmp_path / "study"
    summary, screen = run(folder, base, written, task=GENERATE, model={"max_length": 12}, lora=lora)
    assert summary["loss_after"] < 0.98 * summary["loss_before"]
    assert {"perplexity_after", "token_accuracy_before"} <= set(summary)
    assert "accuracy_before" not in summary
    assert "loss_after" in summary["coordinators_word"]
    page = " ".join((folder / "run" / "report.html").read_text().split())
    assert f"token, in nats, on the test set went from {summary['loss_before']:.3f}" in page
    assert any("0.0 % records without" in text for text in screen.texts)
    study = secfed.load_study(folder / "study.toml")
    opened = open_study_model(study, folder / "model")
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder / "run" / "adapter").eval()
    prompt = opened.tokenizer("acute pain of the lung", return_tensors="pt")["input_ids"][:, :-1]
    answer = plain.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=1, do_sample=False)
    assert answer.shape == (1, prompt.shape[1] + 1)


def test_a_study_that_tags_learns_and_is_verified(tmp_path: Path) -> None:
    lora = {"rank": 1, "alpha": 8, "targets": ["query", "value"], "layers": None}
    task = {"kind": "tag", "labels": ["O", "X"]}
    base = make_tiny_base(tmp_path / "base")
    summary, _ = run(tmp_path / "study", base, tagged, task=task, model={"max_length": 8}, lora=lora)
    assert summary["loss_after"] < summary["loss_before"]
    assert 0.0 <= summary["word_accuracy_after"] <= 1.0


def test_an_adapter_that_claims_another_task_is_found_out(tmp_path: Path) -> None:
    base = write_causal_base(tmp_path / "base")
    lora = {"rank": 2, "alpha": 4, "targets": ["q_proj"], "layers": None}
    run(tmp_path / "study", base, written, 2, task=GENERATE, model={"max_length": 12}, lora=lora)
    path = tmp_path / "study" / "run" / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "auto_mapping": {**config["auto_mapping"], "id2label": {"0": "no"}}}))
    problem = secfed.verify_folder(tmp_path / "study" / "run").problem
    assert problem is not None
    assert re.search("adapter_config.json", str(problem))


@pytest.mark.parametrize("gone", ["finding", "place"])
def test_rows_without_a_column_are_told_with_their_lines_before_anything_starts(tmp_path: Path, gone: str) -> None:
    base = write_causal_base(tmp_path / "base")

    def without(number: int) -> dict[str, str]:
        return {name: value for name, value in written(number).items() if name != gone}

    with pytest.raises(secfed.UserError, match=f'has no column "{gone}"'):
        run(tmp_path / "study", base, without, task=GENERATE, model={"max_length": 12}, lora={"targets": ["q_proj"]})
