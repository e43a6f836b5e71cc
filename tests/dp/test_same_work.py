"""How much work a step is does not tell who was drawn: passes, their shapes, clips and noise, counted in every mode.

What is counted here is what takes the time. Nothing is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import nn

import dp.patients
import dp.training
from crypto.randomness import NoiseSecret, NoiseStream
from dp.distributed import private_sum
from dp.node_update import private_update
from dp.sampling import Patients
from dp.step_plan import LocalPlan, NodePlan, StepPlan
from dp.training import train_locally
from secfed.models.model import AdapterModel
from tests.tiny import LENGTH, make_tiny_patients, only_patients

pytestmark = pytest.mark.usefixtures("one_thread")

LOCAL = LocalPlan(
    steps=2,
    sampling_rate=0.5,
    nominal_patients=20,
    clip=0.05,
    noise_multiplier=0.7,
    learning_rate=0.1,
    optimizer="sgd",
    physical_batch=3,
    batches=4,
)
STEP = StepPlan(
    sampling_rate=0.5,
    clip=0.05,
    grid=1 << 20,
    most_records=2,
    physical_batch=6,
    batches=4,
    noise_variance=Fraction(10**11),
)
NODE = NodePlan(
    steps=3,
    optimizer="sgd",
    learning_rate=0.1,
    physical_batch=4,
    clip=0.05,
    grid=1 << 20,
    noise_variance=Fraction(10**11),
)
PLACES = 12
"""Patients that both plans' batches hold."""
DRAWS = {"nobody": 1e-12, "a few": 0.1, "half": 0.5, "more than fit": 1.0}
"""The rate, for a draw of so many of the twenty."""


def secret() -> NoiseSecret:
    return NoiseSecret(lambda count: bytes([1]) * count)


@dataclass
class Work:
    """What a step did."""

    forward: list[tuple[int, ...]] = field(default_factory=list)
    """Shape of the records of each forward pass."""
    backward: int = 0
    clipped: list[int] = field(default_factory=list)
    """How many gradients each clip was of."""
    noise: list[tuple[str, int]] = field(default_factory=list)
    """Kind and length of each vector of noise."""
    keyed: int = 0
    """How many coins and choices were derived."""


@contextmanager
def counted(model: nn.Module) -> Iterator[Work]:
    """Within it, all work on the model is counted."""
    work = Work()

    def watch(owner: Any, name: str, note: Callable[..., None]) -> None:
        real = getattr(owner, name)

        def noted(*arguments: Any, **options: Any) -> Any:
            note(*arguments, **options)
            return real(*arguments, **options)

        patch.setattr(owner, name, noted)

    def note_backward(*_: Any) -> None:
        work.backward += 1

    def note_keyed(*_: Any) -> None:
        work.keyed += 1

    handle = model.register_forward_pre_hook(
        lambda module, arguments, inputs: work.forward.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    with pytest.MonkeyPatch.context() as patch:
        watch(torch.autograd, "backward", note_backward)
        watch(NoiseSecret, "_number", note_keyed)
        watch(dp.training, "clip_and_sum", lambda gradients, clip: work.clipped.append(len(gradients[0])))
        watch(dp.patients, "_clip_into", lambda *_: work.clipped.append(1))
        for kind in ("gaussian", "discrete_gaussian"):
            watch(NoiseStream, kind, lambda self, count, *_, kind=kind: work.noise.append((kind, count)))
        try:
            yield work
        finally:
            handle.remove()


def locally(model: nn.Module, patients: Patients, rate: float) -> None:
    train_locally(model, patients, replace(LOCAL, sampling_rate=rate), secret(), 1)


def together(model: nn.Module, patients: Patients, rate: float) -> None:
    private_sum(model, patients, replace(STEP, sampling_rate=rate), secret(), 1)


def together_singly(model: nn.Module, patients: Patients, rate: float) -> None:
    private_sum(model, patients, replace(STEP, sampling_rate=rate), secret(), 1, one_at_a_time=True)


EXPECTED = {
    locally: ([(3, LENGTH)] * 8, [3] * 8, "gaussian", 2 * 20 * (1 + 1)),
    together: ([(6, LENGTH)] * 4, [1] * PLACES, "discrete_gaussian", 20 * (1 + 2)),
    together_singly: ([(1, LENGTH)] * 24, [1] * PLACES, "discrete_gaussian", 20 * (1 + 2)),
}
"""Passes of two steps or one, gradients per clip, kind of noise, and a coin and G choices of every patient."""


@pytest.mark.parametrize("step", EXPECTED)
@pytest.mark.parametrize("draw", DRAWS)
def test_a_step_is_the_same_work_whoever_is_drawn(
    adapter: AdapterModel, step: Callable[[nn.Module, Patients, float], None], draw: str
) -> None:
    forward, clipped, noise, keyed = EXPECTED[step]
    with counted(adapter.module) as work:
        step(adapter.module, make_tiny_patients(20, records_each=3), DRAWS[draw])
    assert work.forward == forward
    assert work.backward == len(forward)
    assert work.clipped == clipped
    steps = LOCAL.steps if step is locally else 1
    assert work.noise == [(noise, adapter.dimension)] * steps
    assert work.keyed == keyed


def test_the_draws_above_are_what_they_are_called() -> None:
    assert LOCAL.physical_batch * LOCAL.batches == STEP.most_patients == PLACES
    rows = make_tiny_patients(20, records_each=3).rows
    sizes = [len(dp.patients.draw_patients(rows, rate, 2, secret(), 1)) for rate in DRAWS.values()]
    assert sizes[0] == 0 < sizes[1] < 6 <= sizes[2] <= PLACES < sizes[3] == 20


@pytest.mark.parametrize("records", [1, 5, 60])
def test_a_nodes_round_is_the_same_work_whatever_it_has(adapter: AdapterModel, records: int) -> None:
    with counted(adapter.module) as work:
        private_update(adapter.module, make_tiny_patients(records, records_each=1), NODE, secret(), 1)
    assert work.forward == [(4, LENGTH)] * 3
    assert work.backward == 3
    assert work.clipped == [1]
    assert work.noise == [("discrete_gaussian", adapter.dimension)]
    assert work.keyed == 3 * 4


def test_local_patients_beyond_what_the_batches_hold_contribute_zero(adapter: AdapterModel) -> None:
    """All are drawn, and twelve have a place: without the other eight the model moves to the same bits."""
    patients, start = make_tiny_patients(20), adapter.get_state()

    def moved(names: list[str]) -> bytes:
        adapter.set_state(start)
        locally(adapter.module, only_patients(patients, set(names)), 1.0)
        return adapter.get_state().tobytes()

    names = list(patients.rows)
    assert moved(names) == moved(names[:PLACES])
    assert moved(names) != moved(names[: PLACES - 1])


@pytest.mark.parametrize("draw", ["nobody", "half"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_batches_of_fillers_leave_every_bit_of_a_local_round_as_it_is(
    adapter: AdapterModel, draw: str, optimizer: Any
) -> None:
    start, moved = adapter.get_state(), set()
    for batches in (4, 5, 9):
        adapter.set_state(start)
        plan = replace(LOCAL, sampling_rate=DRAWS[draw], optimizer=optimizer, proximal_mu=0.1, batches=batches)
        train_locally(adapter.module, make_tiny_patients(20), plan, secret(), 1)
        moved.add(adapter.get_state().tobytes())
    assert len(moved) == 1


def test_a_filler_whose_gradient_is_not_finite_is_nobodys(
    adapter: AdapterModel, caplog: pytest.LogCaptureFixture
) -> None:
    """Fillers are the hospital's first record. Where that is a bad one, an empty draw is its noise, as ever."""
    patients, start, moved = make_tiny_patients(20), adapter.get_state(), []
    patients.inputs["input_ids"][0, 3] = 40  # a token that nobody else has
    embeddings = adapter.module.get_input_embeddings().weight  # type: ignore[operator, union-attr]
    for value in (0.0, float("nan")):
        with torch.no_grad():
            embeddings[40] = value
        adapter.set_state(start)
        locally(adapter.module, patients, DRAWS["nobody"])
        moved.append(adapter.get_state().tobytes())
    assert moved[0] == moved[1]
    assert "not finite" not in caplog.text
