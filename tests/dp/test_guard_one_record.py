"""Gradients taken one record at a time: what Opacus cannot follow goes so, and gives the sum of the textbook.

Both paths give the same vectors to within a few steps of the grid, and neither lets a filler weigh anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dp.distributed import Batch, batch_gradients, gradient_buffer, private_sum, single_gradients, trained_parameters
from dp.errors import UnsuitableModel
from dp.patients import square_sum
from dp.training import evaluation, per_sample_gradients
from secfed.models.model import AdapterModel
from tests.dp.guarded import (
    GRID,
    PLAN,
    Classifier,
    adapted,
    clipped_sum,
    mixed_lengths,
    patient_gradients,
    rows_of,
    secret,
    texts,
    vectors,
    verdict,
)
from tests.tiny import make_tiny_patients

pytestmark = [
    pytest.mark.usefixtures("one_thread", "seeded"),
    # PEFT still asks transformers under the old name.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]


def whole_numbers(vector: bytes) -> np.ndarray:
    return np.frombuffer(vector, dtype=np.int64)


class Checkpointed(nn.Module):
    """Keeps no activations, and computes them again in the backward pass."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, **inputs: Tensor) -> SimpleNamespace:
        logits = checkpoint(lambda **given: self.inner(**given).logits, use_reentrant=False, **inputs)
        return SimpleNamespace(logits=logits)


UNFOLLOWED: dict[str, Callable[[Path], nn.Module]] = {
    "DoRA": lambda base: adapted(base, target_modules=["query"], use_dora=True),
    "LoRA on embeddings": lambda base: adapted(base, target_modules=["word_embeddings", "query"]),
    "checkpointing": lambda base: Checkpointed(adapted(base, target_modules=["query"])),
}


@pytest.mark.parametrize("name", UNFOLLOWED)
def test_what_opacus_cannot_follow_is_named_and_goes_one_record_at_a_time(base: Path, name: str) -> None:
    model, patients = UNFOLLOWED[name](base), mixed_lengths(6)
    with pytest.raises((UnsuitableModel, TypeError)):
        private_sum(model, patients, PLAN, secret(), 1)
    found = verdict(model)
    assert not found.problems
    assert f"Opacus cannot follow {name}" in texts(found)
    assert found.one_at_a_time
    plan = replace(PLAN, noise_variance=Fraction(1))
    result = private_sum(model, patients, plan, secret(), 1, one_at_a_time=found.one_at_a_time)
    expected = clipped_sum(patient_gradients(model, patients), PLAN.clip)
    assert np.abs(result.vector - expected.numpy() * GRID / PLAN.clip).max() < 6 * 5 + 8  # steps of the grid, and noise


def test_a_layer_whose_gradient_opacus_takes_wrongly_is_found_and_goes_one_record_at_a_time() -> None:
    """A layer whose weight is used outside of it once more: Opacus sees half of its gradient, and says nothing."""

    class UsedTwice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 16)

        def forward(self, values: Tensor) -> Tensor:
            inner: Tensor = self.linear(values)
            return inner + nn.functional.linear(values.tanh(), self.linear.weight)

    model = Classifier(UsedTwice())
    found = verdict(model)
    assert not found.problems
    assert "something.linear.weight has a gradient that differs from plain autograd's" in texts(found)
    patients = mixed_lengths(6)
    wanted = clipped_sum(patient_gradients(model, patients), PLAN.clip).numpy() * GRID / PLAN.clip
    plan = replace(PLAN, noise_variance=Fraction(1))
    wrong = private_sum(model, patients, plan, secret(), 1).vector
    right = private_sum(model, patients, plan, secret(), 1, one_at_a_time=True).vector
    assert np.linalg.norm(wrong - wanted) > 0.1 * GRID
    assert np.abs(right - wanted).max() < 6 * 5 + 8


def test_one_record_at_a_time_gives_the_vectors_of_batches_to_within_a_few_steps_of_the_grid(
    adapter: AdapterModel,
) -> None:
    """The oracle for the path through Opacus. Both add the same numbers in float32, in another order."""
    patients = mixed_lengths(20)
    batched = vectors(adapter.module, patients)
    single = vectors(adapter.module, patients, one_at_a_time=True)
    assert single == vectors(adapter.module, patients, one_at_a_time=True)
    furthest = [np.abs(whole_numbers(batched[name]) - whole_numbers(single[name])).max() for name in batched]
    assert max(furthest) <= 4
    assert all(square_sum(whole_numbers(vector)) > 0.99 * GRID**2 for vector in single.values())


def test_one_record_at_a_time_makes_the_same_number_of_passes_whoever_is_drawn(adapter: AdapterModel) -> None:
    passes: list[int] = []
    handle = adapter.module.register_forward_pre_hook(lambda *_: passes.append(1))
    counts = []
    try:
        for rate in (1e-12, 0.5, 1.0):
            passes.clear()
            plan = replace(PLAN, sampling_rate=rate, batches=6)
            private_sum(adapter.module, make_tiny_patients(8), plan, secret(), 1, one_at_a_time=True)
            counts.append(len(passes))
    finally:
        handle.remove()
    assert counts == [6 * PLAN.physical_batch] * 3


def test_one_record_at_a_time_leaves_nothing_on_the_model(adapter: AdapterModel) -> None:
    def stop(batch: int) -> None:
        raise KeyboardInterrupt

    before = [(name, module.training, sorted(module.__dict__)) for name, module in adapter.module.named_modules()]
    with pytest.raises(KeyboardInterrupt):
        private_sum(adapter.module, make_tiny_patients(8), PLAN, secret(), 1, stop, one_at_a_time=True)
    after = [(name, module.training, sorted(module.__dict__)) for name, module in adapter.module.named_modules()]
    assert after == before
    assert all(parameter.grad is None for parameter in adapter.module.parameters())


def test_a_layer_that_opacus_refuses_is_trained_one_record_at_a_time_only() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.LSTM(16, 16, batch_first=True)

        def forward(self, values: Tensor) -> Tensor:
            found: Tensor = self.inner(torch.stack([values, -values], dim=1))[0][:, 1]
            return found

    model = Classifier(Recurrent())
    with pytest.raises(UnsuitableModel, match="LSTM"):
        private_sum(model, mixed_lengths(4), PLAN, secret(), 1)
    found = verdict(model)
    assert "LSTM" in texts(found)
    assert found.one_at_a_time
    assert not found.problems
    assert private_sum(model, mixed_lengths(4), PLAN, secret(), 1, one_at_a_time=True).non_finite == 0


def test_gradients_taken_by_both_paths_weigh_fillers_with_nothing(adapter: AdapterModel) -> None:
    parameters = trained_parameters(adapter.module)
    batch = Batch(*rows_of(mixed_lengths(3), range(3)), torch.tensor([1.0, 0.0, 0.0]))
    buffer = gradient_buffer(parameters, 3)
    with evaluation(adapter.module):
        single = single_gradients(adapter.module, parameters, batch, buffer).copy()
    with per_sample_gradients(adapter.module):
        batched = batch_gradients(adapter.module, parameters, batch, buffer)
    for found in (single, batched):
        assert found[0].any()
        assert not found[1:].any()
