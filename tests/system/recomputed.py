"""A real run, to be recomputed: its noise secrets, which only tests know, and what it published."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import dp.distributed
import secfed.node.contribution
from crypto.kdf import derive
from crypto.randomness import NoiseSecret
from dp.sampling import Patients
from protocols.receipts import Receipt
from protocols.wire import decode
from secfed.engines.embedded.run import prepare
from secfed.models.data import read_patients, tokenise
from secfed.models.model import AdapterModel, load_tokenizer
from secfed.models.training import load_study_model
from secfed.reports.folder import receipt_file, sum_file
from secfed.rounds.chain import Chain
from secfed.rounds.strategies import ModelState
from secfed.study.manifest import Study


class Secrets:
    """Noise secrets in the order in which nodes make them, and the noise that training in `where` drew from each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, where: ModuleType = dp.distributed) -> None:
        self.made = 0
        self.noises: list[np.ndarray] = []
        draw = dp.distributed.draw_noise

        def recorded(*arguments: Any) -> np.ndarray:
            self.noises.append(draw(*arguments))
            return self.noises[-1]

        monkeypatch.setattr(where, "draw_noise", recorded)
        monkeypatch.setattr(secfed.node.contribution, "NoiseSecret", self.make)

    def make(self) -> NoiseSecret:
        self.made += 1
        return self.number(self.made - 1)

    def number(self, at: int) -> NoiseSecret:
        return NoiseSecret(lambda count: derive(bytes([at]) * 32, "noise of a test", length=count))


def opened_again(folder: Path, out: Path) -> tuple[Study, AdapterModel, ModelState, list[Patients]]:
    """The study of a workspace, its model at the first state, and every node's records, in roster order."""
    plan = prepare(folder / "study.toml", out)
    study = plan.study
    model, first = load_study_model(study, plan.base)
    tokenizer = load_tokenizer(plan.base, model.vocabulary)
    data = [
        tokenise(
            read_patients(folder / "sites" / entry.name / "patients.jsonl", model.kind, ""),
            tokenizer,
            model.kind,
        )
        for entry in study.roster
    ]
    return study, model, first, data


def published(folder: Path, chain: Chain, number: int) -> tuple[Receipt, bytes]:
    """A round's receipt, and its packed sum."""
    limits = chain.limits
    receipt = decode(Receipt, (folder / receipt_file(number)).read_bytes(), limits, None)
    return receipt, (folder / sum_file(number)).read_bytes()
