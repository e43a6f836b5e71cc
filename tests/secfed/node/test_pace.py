"""Uploads at a fixed moment: when one leaves says nothing about how long training took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from crypto.randomness import NoiseSecret
from secfed.node.node import Node
from secfed.node.pace import OWNERS_LOG, warning
from secfed.node.policy import PacePolicy
from secfed.rounds.strategies import ModelState
from tests.secfed.federation import Federation, FormulaTrainer, make_study


class Clock:
    """Time that passes only where somebody trains or waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits: list[float] = []
        self.commits: list[float] = []

    def pause(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


class SlowTrainer(FormulaTrainer):
    """Takes as long as it is told to."""

    clock: Clock
    seconds: float

    def contribute(
        self, state: ModelState, round_number: int, secret: NoiseSecret, progress: Callable[[int], None]
    ) -> NDArray[np.int64]:
        self.clock.now += self.seconds
        return super().contribute(state, round_number, secret, progress)


def paced_round(folder: Path, monkeypatch: pytest.MonkeyPatch, after: float, seconds: float) -> tuple[Clock, list[str]]:
    """One round in which node 0 trains for so long under this policy. What it waited, and what its owner was told."""
    clock, told = Clock(), []
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    federation = Federation(make_study(algorithm={"rounds": 1}), folder)
    node = federation.nodes[0]
    trainer = SlowTrainer(federation.study, 0)
    trainer.clock, trainer.seconds = clock, seconds
    policy = node.parts.policy.model_copy(update={"pace": PacePolicy(upload_after_seconds=after)})
    parts = replace(node.parts, policy=policy, trainer=trainer)
    commit = node.parts.ledger.commit

    def note(study: bytes, number: int) -> None:
        clock.commits.append(clock.now)
        commit(study, number)

    monkeypatch.setattr(node.parts.ledger, "commit", note)
    federation.nodes[0] = Node(
        federation.study, parts, tell_owner=lambda name, text: told.append(text), pause=clock.pause
    )
    _, (record,) = federation.run()
    assert len(record.survivors) == 5
    return clock, told


@pytest.mark.parametrize("seconds", [0.0, 3.0, 59.0])
def test_an_upload_leaves_at_the_fixed_moment_however_long_training_took(
    seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, told = paced_round(tmp_path, monkeypatch, 60.0, seconds)
    assert clock.waits == [60.0 - seconds]
    assert clock.now == 1060.0
    assert clock.commits == [1060.0], "what the ledger tells is handed on"
    assert told == []


def test_without_the_policy_the_moment_tells_how_long_training_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, _ = paced_round(tmp_path, monkeypatch, 0.0, 3.0)
    assert clock.waits == []
    assert clock.now == 1003.0


def test_an_owner_is_told_when_training_took_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, (told,) = paced_round(tmp_path, monkeypatch, 60.0, 64.5)
    assert clock.waits == []
    assert "4.5 s after the delay pace.upload_after_seconds = 60" in told


@pytest.mark.parametrize("seconds", [-1.0, float("inf"), float("nan"), 86_401.0])
def test_a_moment_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(ValidationError):
        PacePolicy(upload_after_seconds=seconds)


def test_an_owner_whose_uploads_are_not_held_back_is_warned_with_a_value_to_set(tmp_path: Path) -> None:
    what, fix = warning(tmp_path, 0.0) or ("", "")
    assert "sees how long each round's training took" in what
    assert "upload_after_seconds = 900 under [pace]" in fix
    assert "a quarter of an aggregator's default deadline for training, 3600 s" in fix
    lines = [
        "a round 1: took part, 12.00 s",
        "b round 2: took part, 100.50 s",
        "c round 3: took part, 3.00 s, but signed no sum",
    ]
    (tmp_path / OWNERS_LOG).write_text("\n".join(lines) + "\n")
    _, fix = warning(tmp_path, 0.0) or ("", "")
    assert "upload_after_seconds = 240 under [pace]" in fix
    assert "twice the longest round so far here, 100.5 s" in fix
    assert warning(tmp_path, 60.0) is None
