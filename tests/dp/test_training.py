"""Private local training, against an oracle that takes one patient at a time."""

from __future__ import annotations

import copy
import gc
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from crypto.randomness import NoiseSecret
from dp.errors import UnsuitableModel
from dp.sampling import Patients, draw
from dp.step_plan import LocalPlan
from dp.training import per_sample_gradients, physical_batches, record_losses, train_locally
from secfed.models.model import AdapterModel
from tests.tiny import LORA, make_tiny_model, make_tiny_patients

PLAN = LocalPlan(
    steps=1,
    sampling_rate=0.5,
    nominal_patients=20,
    clip=0.05,
    noise_multiplier=0.7,
    learning_rate=0.1,
    optimizer="sgd",
    physical_batch=4,
    batches=5,
)
NOTHING_DRAWN = replace(PLAN, sampling_rate=1e-12)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def patients() -> Patients:
    return make_tiny_patients(20)


def fixed_secret(value: int = 1) -> NoiseSecret:
    return NoiseSecret(lambda count: bytes([value]) * count)


def trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def batch(patients: Patients, rows: list[int]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    return {name: tensor[rows] for name, tensor in patients.inputs.items()}, patients.labels[rows]


def gradient_alone(model: nn.Module, patients: Patients, row: int) -> torch.Tensor:
    """The oracle: one record, plain autograd, everything flat, in the order of named_parameters."""
    loss = record_losses(model, *batch(patients, [row])).sum()
    parts = torch.autograd.grad(loss, [parameter for _, parameter in trained(model)])
    return torch.cat([part.flatten() for part in parts]).double()


def flat_weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for _, parameter in trained(model)]).double()


def test_per_sample_gradients_equal_a_patient_at_a_time(adapter: AdapterModel, patients: Patients) -> None:
    rows = list(range(0, 40, 3))
    model = adapter.module
    with per_sample_gradients(model):
        record_losses(model, *batch(patients, rows)).sum().backward()
        found = torch.cat([parameter.grad_sample.flatten(1) for _, parameter in trained(model)], dim=1)
    for sample, row in enumerate(rows):
        assert (found[sample].double() - gradient_alone(model, patients, row)).abs().max() < 1e-6


def test_a_step_is_the_clipped_patients_plus_noise_over_the_public_denominator(
    adapter: AdapterModel, patients: Patients
) -> None:
    model, secret = adapter.module, fixed_secret()
    before = flat_weights(model)
    rows = draw(patients.rows, PLAN.sampling_rate, secret, 3, 1)
    assert len(rows) % PLAN.physical_batch, "the last physical batch is filled up"
    total = torch.zeros_like(before)
    clipped = 0
    for row in rows:
        gradient = gradient_alone(model, patients, row)
        clipped += bool(gradient.norm() > PLAN.clip)
        total += gradient * min(1.0, PLAN.clip / float(gradient.norm()))
    assert clipped > 0
    noise = secret.stream("noise", 3).gaussian(before.numel(), PLAN.noise_multiplier * PLAN.clip)
    expected = before - PLAN.learning_rate * (total + torch.from_numpy(noise)) / 10
    train_locally(model, patients, PLAN, secret, 3)
    assert (flat_weights(model) - expected).abs().max() < 1e-6


def test_the_physical_batch_size_does_not_change_the_result(base: Path, patients: Patients) -> None:
    states = []
    for size in (1, 5, 64):
        model = make_tiny_model(base)
        train_locally(
            model.module,
            patients,
            replace(PLAN, steps=3, physical_batch=size, batches=-(-20 // size)),
            fixed_secret(),
            1,
        )
        states.append(model.get_state())
    assert np.abs(states[0] - states[1]).max() < 1e-6
    assert np.abs(states[0] - states[2]).max() < 1e-6


def test_every_physical_batch_is_full_and_fillers_weigh_nothing() -> None:
    found = [(index.tolist(), weights.tolist()) for index, weights in physical_batches([7, 8, 9, 3, 4], 3, 3)]
    assert found == [([7, 8, 9], [1, 1, 1]), ([3, 4, 0], [1, 1, 0]), ([0, 0, 0], [0, 0, 0])]


def test_a_fillers_gradient_is_exactly_zero(adapter: AdapterModel, patients: Patients) -> None:
    model = adapter.module
    weights = torch.tensor([1.0, 0.0, 0.0])
    with per_sample_gradients(model):
        (record_losses(model, *batch(patients, [0, 1, 0])) * weights).sum().backward()
        for _, parameter in trained(model):
            assert not parameter.grad_sample[1:].any()
        assert any(parameter.grad_sample[0].any() for _, parameter in trained(model))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("variant", ["ffa", "ab"])
def test_every_trained_tensor_moves_and_nothing_else_does(
    base: Path, patients: Patients, optimizer: Any, variant: Any
) -> None:
    model = make_tiny_model(base, replace(LORA, variant=variant)).module
    names = {name for name, _ in trained(model)}
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train_locally(model, patients, replace(PLAN, optimizer=optimizer), fixed_secret(), 1)
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == names


def test_an_empty_draw_is_noised_and_nothing_else(adapter: AdapterModel, patients: Patients) -> None:
    before = flat_weights(adapter.module)
    train_locally(adapter.module, patients, replace(NOTHING_DRAWN, nominal_patients=10**12), fixed_secret(), 1)
    # q N = 1, so that a step is the learning rate times the noise.
    noise = (flat_weights(adapter.module) - before) / PLAN.learning_rate
    assert noise.all()
    assert float(noise.std()) == pytest.approx(PLAN.noise_multiplier * PLAN.clip, rel=0.1)
    assert abs(float(noise.mean())) < 4 * PLAN.noise_multiplier * PLAN.clip / noise.numel() ** 0.5


def test_a_hospital_without_any_draw_takes_all_its_steps(adapter: AdapterModel, patients: Patients) -> None:
    done: list[int] = []
    train_locally(adapter.module, patients, replace(NOTHING_DRAWN, steps=3), fixed_secret(), 1, done.append)
    assert done == [1, 2, 3]


def test_every_step_and_every_round_has_noise_of_its_own(base: Path, patients: Patients) -> None:
    moves = []
    for steps, round_number in [(1, 1), (2, 1), (1, 2)]:
        model = make_tiny_model(base)
        before = model.get_state()
        plan = replace(NOTHING_DRAWN, nominal_patients=10**12, steps=steps)
        train_locally(model.module, patients, plan, fixed_secret(), round_number)
        moves.append(model.get_state() - before)
    first, both, other_round = moves
    second = both - first
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.25
    assert abs(np.corrcoef(first, other_round)[0, 1]) < 0.25


def test_a_fresh_secret_gives_other_noise_and_the_same_secret_the_same(base: Path, patients: Patients) -> None:
    def run(secret: NoiseSecret) -> bytes:
        model = make_tiny_model(base)
        train_locally(model.module, patients, PLAN, secret, 1)
        return model.get_state().tobytes()

    assert run(NoiseSecret()) != run(NoiseSecret())
    assert run(fixed_secret()) == run(fixed_secret())


def test_torchs_generator_decides_nothing(base: Path, patients: Patients) -> None:
    states = set()
    for seed in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = make_tiny_model(base)
            train_locally(model.module, patients, PLAN, fixed_secret(), 1)
        states.add(model.get_state().tobytes())
    assert len(states) == 1


@pytest.mark.parametrize("bad", ["patient-3", "patient-0"])  # the first one's record fills batches up, too
def test_a_patient_whose_gradient_is_not_a_number_contributes_zero(
    base: Path, patients: Patients, caplog: pytest.LogCaptureFixture, bad: str
) -> None:
    assert patients.rows["patient-0"][0] == 0
    plan = replace(PLAN, sampling_rate=1.0, physical_batch=64)
    poisoned = make_tiny_model(base)
    tokens = patients.inputs["input_ids"].clone()
    poison = tokens.max() + 1  # a token that only this patient has
    tokens[list(patients.rows[bad]), 1] = poison
    with torch.no_grad():
        poisoned.module.get_input_embeddings().weight[poison] = float("nan")  # type: ignore[operator]
    with caplog.at_level(logging.WARNING):
        inputs = {**patients.inputs, "input_ids": tokens}
        train_locally(poisoned.module, replace(patients, inputs=inputs), plan, fixed_secret(), 1)
    without = make_tiny_model(base)
    others = {name: rows for name, rows in patients.rows.items() if name != bad}
    train_locally(without.module, replace(patients, rows=others), plan, fixed_secret(), 1)
    assert np.abs(poisoned.get_state() - without.get_state()).max() < 1e-6
    assert [record.args for record in caplog.records if "drawn records" in record.getMessage()] == [(1,)]


def test_dropout_is_off_while_training(base: Path, patients: Patients) -> None:
    model = make_tiny_model(base)
    for module in model.module.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5  # as if the model had come with dropout
    model.module.train()
    with per_sample_gradients(model.module):
        first, second = (model.module(**batch(patients, [0, 1])[0]).logits for _ in range(2))
    assert torch.equal(first, second)


def test_a_record_has_the_same_loss_alone_as_in_company(adapter: AdapterModel, patients: Patients) -> None:
    together = record_losses(adapter.module, *batch(patients, [0, 1, 2]))
    alone = torch.cat([record_losses(adapter.module, *batch(patients, [row])) for row in range(3)])
    assert torch.allclose(together, alone, atol=1e-6)


def remains(model: nn.Module) -> dict[str, Any]:
    """Everything on the model that training could leave behind."""
    return {
        "hooks": [(name, len(m._forward_hooks), len(m._backward_hooks)) for name, m in model.named_modules()],
        "modes": [(name, module.training) for name, module in model.named_modules()],
        "modules": [(name, sorted(module.__dict__)) for name, module in model.named_modules()],
        "parameters": [(name, sorted(p.__dict__), p.grad is None) for name, p in model.named_parameters()],
    }


def test_training_leaves_nothing_on_the_model_and_can_be_repeated(adapter: AdapterModel, patients: Patients) -> None:
    before = remains(adapter.module)
    for round_number in (1, 2):
        train_locally(adapter.module, patients, PLAN, fixed_secret(), round_number)
        assert remains(adapter.module) == before


def test_training_that_breaks_off_leaves_nothing_on_the_model(adapter: AdapterModel, patients: Patients) -> None:
    def stop(step: int) -> None:
        raise KeyboardInterrupt

    before = remains(adapter.module)
    with pytest.raises(KeyboardInterrupt):
        train_locally(adapter.module, patients, PLAN, fixed_secret(), 1, stop)
    assert remains(adapter.module) == before


def test_rounds_do_not_pile_up_tensors(adapter: AdapterModel, patients: Patients) -> None:
    def live() -> int:
        gc.collect()
        return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())

    train_locally(adapter.module, patients, PLAN, fixed_secret(), 1)
    before = live()
    for round_number in (2, 3, 4):
        train_locally(adapter.module, patients, PLAN, fixed_secret(), round_number)
    assert live() == before


class Mixing(nn.Module):
    """Classifies through BatchNorm: every sample's output depends on the others."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(self.norm(input_ids.float() * attention_mask)))


class Bypassing(Mixing):
    """Uses a trainable parameter outside of any layer, where Opacus's hooks do not see it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Identity()  # type: ignore[assignment]
        self.scales = nn.ParameterDict({"x": nn.Parameter(torch.ones(8))})

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        return super().forward(input_ids * self.scales["x"], attention_mask)


@pytest.mark.parametrize(("model", "reason"), [(Mixing(), "BatchNorm"), (Bypassing(), "scales.x")])
def test_a_model_without_private_gradients_is_refused_and_not_moved(
    model: nn.Module, reason: str, patients: Patients
) -> None:
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UnsuitableModel, match=reason):
        train_locally(model, patients, replace(PLAN, sampling_rate=1.0), fixed_secret(), 1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.5},
        {"nominal_patients": 0},
        {"clip": 0.0},
        {"noise_multiplier": 0.0},
        {"learning_rate": float("nan")},
        {"physical_batch": 0},
        {"proximal_mu": -0.1},
        {"proximal_mu": float("inf")},
    ],
)
def test_a_plan_outside_its_range_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(PLAN, **change)


def test_private_training_learns_when_there_is_little_noise(base: Path, patients: Patients) -> None:
    model = make_tiny_model(base)
    other = (int(model.module(**batch(patients, [0])[0]).logits.argmax()) + 1) % 3
    one_label = replace(patients, labels=torch.full_like(patients.labels, other))
    plan = replace(PLAN, steps=10, clip=1.0, noise_multiplier=0.01, learning_rate=0.05, optimizer="adam")
    assert model.measured(one_label)["accuracy"] < 0.5
    train_locally(model.module, one_label, plan, fixed_secret(), 1)
    assert model.measured(one_label)["accuracy"] == 1.0


def sum_of_clipped(model: nn.Module, patients: Patients, rows: list[int]) -> torch.Tensor:
    gradients = [gradient_alone(model, patients, row) for row in rows]
    return torch.stack([each * min(1.0, PLAN.clip / float(each.norm())) for each in gradients]).sum(0)


def test_the_proximal_gradient_is_added_after_clipping_and_noise(adapter: AdapterModel, patients: Patients) -> None:
    """Two steps by hand. The proximal gradient is longer than C and is not cut; the noise is that of two steps."""
    model, secret, mu = adapter.module, fixed_secret(), 20.0
    start = adapter.get_state()
    x0 = flat_weights(model)
    train_locally(model, patients, PLAN, secret, 3)
    x1 = flat_weights(model)
    proximal = mu * (x1 - x0)
    assert float(proximal.norm()) > 2 * PLAN.clip
    stream = secret.stream("noise", 3)
    noise = [torch.from_numpy(stream.gaussian(x0.numel(), PLAN.noise_multiplier * PLAN.clip)) for _ in range(2)]
    total = sum_of_clipped(model, patients, draw(patients.rows, PLAN.sampling_rate, secret, 3, 2))
    expected = x1 - PLAN.learning_rate * ((total + noise[1]) / 10 + proximal)
    adapter.set_state(start)
    train_locally(model, patients, replace(PLAN, steps=2, proximal_mu=mu), secret, 3)
    assert (flat_weights(model) - expected).abs().max() < 1e-6


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_first_step_of_a_round_feels_no_proximal_term_and_later_ones_do(
    base: Path, patients: Patients, optimizer: Any
) -> None:
    def run(steps: int, mu: float) -> np.ndarray:
        model = make_tiny_model(base)
        plan = replace(PLAN, steps=steps, optimizer=optimizer, proximal_mu=mu)
        train_locally(model.module, patients, plan, fixed_secret(), 1)
        return model.get_state()

    assert run(1, 1.0).tolist() == run(1, 0.0).tolist()
    assert run(3, 1.0).tolist() != run(3, 0.0).tolist()


def test_a_stronger_proximal_term_keeps_a_round_nearer_to_its_start(base: Path, patients: Patients) -> None:
    def distance(mu: float) -> float:
        model = make_tiny_model(base)
        start = model.get_state()
        plan = replace(PLAN, steps=20, noise_multiplier=0.01, clip=1.0, proximal_mu=mu)
        train_locally(model.module, patients, plan, fixed_secret(), 1)
        return float(np.linalg.norm(model.get_state() - start))

    distances = [distance(mu) for mu in (0.0, 0.1, 1.0, 5.0)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < distances[0] / 2


def test_every_round_is_held_near_its_own_start(base: Path, patients: Patients) -> None:
    """A round from x_t moves in the same way wherever earlier rounds began."""
    plan = replace(PLAN, steps=3, proximal_mu=1.0)
    model = make_tiny_model(base)
    train_locally(model.module, patients, plan, fixed_secret(), 1)
    second_start = model.get_state()
    train_locally(model.module, patients, plan, fixed_secret(), 2)
    fresh = make_tiny_model(base)
    fresh.set_state(second_start)
    train_locally(fresh.module, patients, plan, fixed_secret(), 2)
    assert fresh.get_state().tolist() == model.get_state().tolist()
