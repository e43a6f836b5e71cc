"""One node's part in a round of DP-FedAvg: plain local training, one clip for all of it, and noise on top."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crypto.randomness import NoiseSecret
from dp import node_update
from dp.distributed import draw_noise
from dp.node_update import local_update, private_update
from dp.patients import clipped_integers, square_sum
from dp.sampling import Patients, shuffled_rows
from dp.step_plan import NodePlan
from dp.training import record_losses
from secfed.models.model import AdapterModel
from tests.tiny import make_tiny_patients

PLAN = NodePlan(
    steps=2,
    optimizer="sgd",
    learning_rate=0.5,
    physical_batch=3,
    clip=10.0,
    grid=1 << 12,
    noise_variance=Fraction(10**7),
)
FEATURES, CLASSES = 4, 3

pytestmark = pytest.mark.usefixtures("one_thread")


class Classifier(nn.Module):
    """Softmax regression: small enough to be trained by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(FEATURES, CLASSES)
        with torch.no_grad():
            self.head.weight.copy_(torch.linspace(-1, 1, FEATURES * CLASSES).reshape(CLASSES, FEATURES))
            self.head.bias.copy_(torch.linspace(0.2, -0.3, CLASSES))

    def forward(self, values: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(values))


def household(records: int = 5, scale: float = 1.0) -> Patients:
    values = scale * torch.randn(records, FEATURES, generator=torch.Generator().manual_seed(records))
    return Patients({"values": values}, torch.arange(records) % CLASSES, {"home": range(records)})


def secret(value: int = 1) -> NoiseSecret:
    return NoiseSecret(lambda count: bytes([value]) * count)


def noise(plan: NodePlan, size: int, round_number: int = 1) -> np.ndarray:
    return draw_noise(secret(), round_number, size, plan.noise_variance)


def without_noise(model: nn.Module, data: Patients, plan: NodePlan) -> np.ndarray:
    vector = private_update(model, data, plan, secret(), 1).vector
    return vector - noise(plan, vector.size)


def rows_by_hand(records: int, count: int) -> list[int]:
    """Fisher and Yates: every place changes with a later one, or with itself; after the last from the start again."""
    order, found = list(range(records)), []
    for number in range(count):
        at = number % records
        other = at + secret().choice(records - at, "row", 1, number)
        order[at], order[other] = order[other], order[at]
        found.append(order[at])
    return found


def trained_by_hand(data: Patients, plan: NodePlan) -> np.ndarray:
    """Bias and weight after gradient descent on the mean cross-entropy, less their start: in float64, without torch."""
    weight = np.linspace(-1, 1, FEATURES * CLASSES).reshape(CLASSES, FEATURES)
    bias = np.linspace(0.2, -0.3, CLASSES)
    values, labels = data.inputs["values"].double().numpy(), data.labels.numpy()
    moved_weight, moved_bias = weight.copy(), bias.copy()
    rows = rows_by_hand(len(labels), plan.steps * plan.physical_batch)
    for step in range(plan.steps):
        chosen = rows[step * plan.physical_batch : (step + 1) * plan.physical_batch]
        logits = values[chosen] @ moved_weight.T + moved_bias
        odds = np.exp(logits)
        slope = odds / odds.sum(axis=1, keepdims=True) - np.eye(CLASSES)[labels[chosen]]
        by_weight, by_bias = slope.T @ values[chosen] / len(chosen), slope.sum(axis=0) / len(chosen)
        by_weight += plan.proximal_mu * (moved_weight - weight)
        by_bias += plan.proximal_mu * (moved_bias - bias)
        moved_weight -= plan.learning_rate * by_weight
        moved_bias -= plan.learning_rate * by_bias
    return np.concatenate([moved_bias - bias, (moved_weight - weight).ravel()])


@pytest.mark.parametrize("mu", [0.0, 0.7])
@pytest.mark.parametrize(("records", "clip"), [(5, 10.0), (5, 0.1), (2, 10.0)])
def test_two_steps_of_gradient_descent_and_one_clip_are_those_computed_by_hand(
    records: int, clip: float, mu: float
) -> None:
    plan, data = replace(PLAN, clip=clip, proximal_mu=mu), household(records)
    moved = trained_by_hand(data, plan)
    norm = float(np.linalg.norm(moved))
    assert (norm > clip) == (clip == 0.1)
    expected = moved * plan.grid / max(norm, clip)
    found = without_noise(Classifier(), data, plan)
    assert found.dtype == np.int64
    assert np.abs(found - np.trunc(expected)).max() <= 1  # float32 against float64
    assert np.count_nonzero(found - np.trunc(expected)) <= 1
    assert np.abs(found).max() > 10  # the comparison is of more than zeros


def test_the_proximal_term_pulls_back_from_the_second_step_on() -> None:
    held = replace(PLAN, proximal_mu=0.7)
    for steps, same in ((1, True), (2, False)):
        found = [
            local_update(Classifier(), household(), replace(plan, steps=steps), secret(), 1) for plan in (PLAN, held)
        ]
        assert np.array_equal(*found) == same
    assert np.linalg.norm(found[1]) < np.linalg.norm(found[0])


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_local_training_of_a_real_adapter_is_a_plain_loop_to_the_last_bit(
    adapter: AdapterModel, optimizer: Any
) -> None:
    data = make_tiny_patients(7)
    plan = replace(PLAN, steps=4, physical_batch=4, optimizer=optimizer, learning_rate=0.01, proximal_mu=0.1)
    model = copy.deepcopy(adapter.module).eval()
    parameters = [dict(model.named_parameters())[name] for name, _ in adapter.layout]
    start = [parameter.detach().clone() for parameter in parameters]
    kind = torch.optim.Adam if optimizer == "adam" else torch.optim.SGD
    stepping = kind(parameters, lr=0.01)
    rows = rows_by_hand(14, 16)
    for step in range(4):
        chosen = rows[4 * step : 4 * step + 4]
        inputs = {name: tensor[chosen] for name, tensor in data.inputs.items()}
        loss = record_losses(model, inputs, data.labels[chosen]).mean()
        gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient, before in zip(parameters, gradients, start, strict=True):
            parameter.grad = gradient + 0.1 * (parameter.detach() - before)
        stepping.step()
    ends = zip(parameters, start, strict=True)
    expected = torch.cat([(after.detach().double() - before.double()).flatten() for after, before in ends]).numpy()
    found = local_update(adapter.module, data, plan, secret(), 1)
    assert found.dtype == np.float64
    assert found.tobytes() == expected.tobytes()
    assert (found != 0).mean() > 0.9
    clipped = clipped_integers(expected, plan.clip, plan.grid)
    assert without_noise(adapter.module, data, plan).tolist() == (clipped.tolist() if clipped is not None else None)


def test_a_node_moves_the_sum_by_at_most_the_clip_however_far_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    data, plan = household(40, scale=30.0), replace(PLAN, steps=20, physical_batch=8, clip=0.1)
    assert np.linalg.norm(local_update(Classifier(), data, plan, secret(), 1)) > 50 * plan.clip
    found = without_noise(Classifier(), data, plan)
    assert 0.99 * plan.grid**2 < square_sum(found) <= plan.grid**2

    def only_rounded(update: np.ndarray, clip: float, grid: int, indicator: int) -> np.ndarray:
        return np.trunc(update * grid / clip).astype(np.int64)

    monkeypatch.setattr(node_update, "clipped_integers", only_rounded)
    harm = without_noise(Classifier(), data, plan)
    assert square_sum(harm) > (50 * plan.grid) ** 2


def test_clipping_every_local_step_instead_would_not_bound_the_whole() -> None:
    data, plan = household(40, scale=30.0), replace(PLAN, steps=8, physical_batch=40, learning_rate=0.05, clip=0.05)
    moved = [
        local_update(Classifier(), data, replace(plan, steps=steps), secret(), 1) for steps in range(1, plan.steps + 1)
    ]
    steps = np.diff(np.stack([np.zeros_like(moved[0]), *moved]), axis=0)
    each = [clipped_integers(step, plan.clip, plan.grid) for step in steps]
    harm = np.sum([vector for vector in each if vector is not None], axis=0)
    assert square_sum(harm) > 4 * plan.grid**2
    assert square_sum(without_noise(Classifier(), data, plan)) <= plan.grid**2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_update_that_is_not_finite_contributes_zero_and_its_noise(bad: float) -> None:
    data = household()
    data.inputs["values"][3, 1] = bad
    plan = replace(PLAN, physical_batch=5)
    result = private_update(Classifier(), data, plan, secret(), 1)
    assert not result.finite
    assert result.vector.tolist() == noise(plan, result.vector.size).tolist()
    assert any(result.vector.tolist())
    assert private_update(Classifier(), household(), plan, secret(), 1).finite


def test_the_noise_is_a_share_of_the_plans_variance_and_another_in_every_round() -> None:
    first, second = (private_update(Classifier(), household(), PLAN, secret(), number) for number in (1, 2))
    update = clipped_integers(local_update(Classifier(), household(), PLAN, secret(), 2), PLAN.clip, PLAN.grid)
    assert second.vector.tolist() == (update + noise(PLAN, update.size, 2)).tolist()  # type: ignore[union-attr, operator]
    assert first.vector.tolist() != second.vector.tolist()


def test_where_the_clip_adapts_the_update_says_whether_it_was_shortened() -> None:
    plan = replace(PLAN, indicator=PLAN.grid // 4)
    long = without_noise(Classifier(), household(), replace(plan, clip=0.01))
    short = without_noise(Classifier(), household(), plan)
    assert (long[-1], short[-1]) == (-plan.indicator, plan.indicator)
    assert long.size == FEATURES * CLASSES + CLASSES + 1
    assert square_sum(long) <= plan.grid**2
    data = household()
    data.inputs["values"][:] = float("nan")
    assert not without_noise(Classifier(), data, plan).any()  # no word of the update that is none


# Rows


@pytest.mark.parametrize(("records", "batch"), [(7, 3), (2, 5), (1, 4), (12, 4)])
def test_every_record_is_used_once_before_one_is_used_again(records: int, batch: int) -> None:
    found = list(islice(shuffled_rows(records, secret(), "row", 1), 6 * records + batch))
    for epoch in range(6):
        assert sorted(found[epoch * records : (epoch + 1) * records]) == list(range(records))
    assert found == rows_by_hand(records, 6 * records + batch)


def test_rows_come_in_another_order_in_every_epoch_round_and_session() -> None:
    def epochs(value: int, round_number: int) -> Iterator[tuple[int, ...]]:
        rows = shuffled_rows(30, secret(value), "row", round_number)
        return iter([tuple(islice(rows, 30)) for _ in range(3)])

    orders = {order for value in (1, 2) for number in (1, 2) for order in epochs(value, number)}
    assert len(orders) == 12


def test_all_orders_are_as_likely() -> None:
    seen: dict[tuple[int, ...], int] = {}
    for number in range(3000):
        order = tuple(islice(shuffled_rows(3, secret(), "row", number), 6))[3:]
        seen[order] = seen.get(order, 0) + 1
    assert len(seen) == 6
    assert all(abs(times - 500) < 120 for times in seen.values())  # more than five standard deviations


def test_a_round_is_the_same_work_however_many_records_a_node_has(
    adapter: AdapterModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[list[tuple[int, ...]]] = []
    choices: list[int] = []
    choose = NoiseSecret.choice

    def counted(self: NoiseSecret, *arguments: Any) -> int:
        choices[-1] += 1
        return choose(self, *arguments)

    monkeypatch.setattr(NoiseSecret, "choice", counted)
    handle = adapter.module.register_forward_pre_hook(
        lambda module, arguments, inputs: shapes[-1].append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    plan, told = replace(PLAN, steps=3, physical_batch=4), []
    try:
        for records in (1, 4, 40):
            shapes.append([])
            choices.append(0)
            private_update(adapter.module, make_tiny_patients(records, 1), plan, secret(), 1, told.append)
    finally:
        handle.remove()
    assert shapes[0] == shapes[1] == shapes[2] == [(4, 8)] * 3
    assert choices == [12, 12, 12]
    assert told == [1, 2, 3] * 3


# The model


def test_nothing_of_the_data_stays_in_the_model(adapter: AdapterModel) -> None:
    before, modes = adapter.get_state(), [module.training for module in adapter.module.modules()]
    private_update(adapter.module, make_tiny_patients(4), PLAN, secret(), 1)
    assert adapter.get_state().tobytes() == before.tobytes()
    assert [module.training for module in adapter.module.modules()] == modes
    assert all(parameter.grad is None for parameter in adapter.module.parameters())


def test_a_training_that_breaks_off_leaves_the_model_as_it_was() -> None:
    model = Classifier()
    before = model.head.weight.detach().clone()

    def stop(step: int) -> None:
        assert not torch.equal(model.head.weight, before)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        local_update(model, household(), PLAN, secret(), 1, stop)
    assert torch.equal(model.head.weight, before)


def test_no_dropout_and_no_generator_has_a_part_in_it() -> None:
    class Dropping(Classifier):
        def forward(self, values: Tensor) -> SimpleNamespace:
            return super().forward(nn.functional.dropout(values, 0.5, self.training))

    models, data = (Classifier().train(), Dropping().train()), household()
    state = torch.get_rng_state()
    found = [without_noise(model, data, PLAN).tolist() for model in models]
    assert found[0] == found[1]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"physical_batch": 0},
        {"grid": 0},
        {"clip": 0.0},
        {"clip": float("inf")},
        {"learning_rate": 0.0},
        {"noise_variance": Fraction(0)},
        {"indicator": -1},
        {"indicator": PLAN.grid},
        {"proximal_mu": -0.1},
    ],
)
def test_a_plan_that_is_no_plan_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at least|positive and finite|indicator"):
        replace(PLAN, **wrong)
