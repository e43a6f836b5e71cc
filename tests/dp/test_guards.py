"""What `check_step` finds in a model by itself: coarse numbers, and tensors that no step moves or two layers share.

Every guard of a private step is shown by what happens without it, in numbers, and that it refuses or mends. Those about
other records are in `test_guard_independence`, those about gradients taken one record at a time in
`test_guard_one_record`, those about what the accountant assumes in `test_guard_accounting`.

Some are shown elsewhere. In `test_patients`: clipping records and adding them up weighs G times C, and rounding to the
nearest lets a norm grow. In `test_clipping`: norms of half-precision gradients, layers that are refused. In
`test_training`: the proximal gradient comes after clipping and noise. In `test_delta_terms`: batches too small for what
may be drawn. In `test_distributed`: a vector that is not finite, and no record moves another's.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dp.distributed import private_sum, trained_parameters
from dp.errors import UnsuitableModel
from dp.guards import Verdict, check_step, made_up_patients
from dp.patients import clipped_integers, square_sum
from dp.training import record_losses
from secfed.models.model import AdapterModel
from tests.dp.guarded import GRID, MADE_UP, PLAN, Classifier, adapted, secret, texts, verdict
from tests.tiny import LABELS, make_tiny_patients

pytestmark = [
    pytest.mark.usefixtures("one_thread", "seeded"),
    # PEFT still asks transformers under the old name.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]


def test_the_models_in_use_pass_and_stay_as_they_were(adapter: AdapterModel) -> None:
    state = adapter.get_state().tobytes()
    random = torch.get_rng_state()
    modes = [module.training for module in adapter.module.modules()]
    for size in (1, 4, 7):
        found = check_step(adapter.module, MADE_UP, size)
        assert found == Verdict((), ())
        assert not found.one_at_a_time
        found.refuse()
    assert adapter.get_state().tobytes() == state
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in adapter.module.modules()] == modes
    assert all(parameter.grad is None for parameter in adapter.module.parameters())


def test_made_up_records_have_the_studys_shape_and_padded_ones_among_them() -> None:
    made_up = made_up_patients(length=100, vocabulary=30_000, classes=2)
    tokens, mask = made_up.inputs["input_ids"], made_up.inputs["attention_mask"]
    assert tokens.shape == mask.shape == (3, 100)
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < 30_000
    assert len(tokens.unique()) > 150
    assert mask.sum(dim=1).tolist() == [100, 50, 100]
    assert set(made_up.labels.tolist()) == {0, 1}
    with pytest.raises(ValueError, match="two records"):
        check_step(nn.Linear(2, 2), made_up_patients(8, 10, 2, count=1), 4)


# Norms and scaling in float32


def test_norms_in_half_precision_let_a_gradient_through_that_is_longer_than_the_clip() -> None:
    ones = torch.ones(1 << 16)
    running = torch.zeros((), dtype=torch.bfloat16)
    for one in ones[:1000].to(torch.bfloat16):
        running += one * one
    assert float(running) == 256, "from there on adding one changes nothing: the norm is 16 and not 31.6"
    assert math.isinf(float((ones.half() * 1.0).square().sum(dtype=torch.float16))), "and here it is none at all"
    half = ones[:1000].to(torch.bfloat16)
    assert float((half / running.sqrt()).double().norm()) > 1.9
    vector = clipped_integers(half.double().numpy(), 1.0, GRID)
    assert vector is not None
    assert 0.99 * GRID**2 < square_sum(vector) <= GRID**2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_do_not_feel_small_steps_and_are_refused(dtype: torch.dtype) -> None:
    model = Classifier(nn.Identity())
    weight = model.head.weight.detach().clone()
    step = 1e-5 * torch.sign(weight)
    assert float((weight + step != weight).float().mean()) == 1.0
    assert float((weight.to(dtype) + step.to(dtype) != weight.to(dtype)).float().mean()) < 0.5
    model.head.to(dtype)
    assert f"it is trained in {dtype}" in texts(verdict(model))
    with pytest.raises(UnsuitableModel, match="keep it in float32"):
        private_sum(model, make_tiny_patients(3), PLAN, secret(), 1)


def test_a_loss_in_half_precision_is_refused(adapter: AdapterModel) -> None:
    def coarse(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        return record_losses(model, inputs, labels).to(torch.bfloat16)

    assert "its loss is taken in torch.bfloat16" in texts(verdict(adapter.module, losses=coarse))


def test_a_base_model_in_half_precision_under_an_adapter_in_full_is_allowed(base: Path) -> None:
    model = adapted(base, target_modules=["query"])
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    model.base_model.model.classifier.float()  # type: ignore[union-attr, operator]

    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, **inputs: Tensor) -> SimpleNamespace:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return SimpleNamespace(logits=self.inner(**inputs).logits)

    assert not verdict(Cast()).problems


# The weights moved


def test_an_optimiser_of_another_models_tensors_moves_nothing_and_is_named(adapter: AdapterModel) -> None:
    stale = dict(trained_parameters(copy.deepcopy(adapter.module)))
    before = adapter.get_state()
    optimizer = torch.optim.SGD(stale.values(), lr=1.0)
    for parameter in stale.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert adapter.get_state().tolist() == before.tolist(), "the budget is spent and the model is where it was"
    found = verdict(adapter.module, moved=stale)
    assert [each.where for each in found.problems] == [name for name, _ in adapter.layout]
    assert "a tensor that is not the model's own" in texts(found)


def test_a_frozen_tensor_that_a_step_is_to_move_is_named_and_a_trainable_one_that_none_moves(
    adapter: AdapterModel,
) -> None:
    moved = dict(trained_parameters(adapter.module))
    first, second, *_ = moved
    moved[first].requires_grad_(False)
    del moved[second]
    found = verdict(adapter.module, moved=moved)
    assert [each.where for each in found.problems] == [first, second]
    assert "frozen or does not exist" in found.problems[0].problem
    assert "no step moves it" in found.problems[1].problem


class Disconnected(Classifier):
    """Has a layer that its forward pass does not use, or uses in vain."""

    def __init__(self, weight: float | None) -> None:
        super().__init__(nn.Identity())
        self.unused = nn.Linear(16, len(LABELS))
        self._weight = weight

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        logits = super().forward(input_ids, attention_mask).logits
        if self._weight is not None:
            logits = logits + self._weight * self.unused(logits.new_ones(len(logits), 16))
        return SimpleNamespace(logits=logits)


@pytest.mark.parametrize(
    ("weight", "problem"), [(None, "unused.bias has no gradient"), (0.0, "unused.bias: its gradient is zero")]
)
def test_a_tensor_that_nothing_moves_is_named(weight: float | None, problem: str) -> None:
    assert problem in texts(verdict(Disconnected(weight)))


def test_a_loss_that_is_cut_off_from_the_weights_is_refused() -> None:
    assert "it has no gradient" in texts(verdict(Classifier(nn.Identity()), losses=detached_losses))


def detached_losses(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    return record_losses(model, inputs, labels).detach()


def test_parameters_on_several_devices_are_refused() -> None:
    model = Classifier(nn.Linear(16, 16, device="meta"))
    assert "several devices" in texts(verdict(model))


def test_tied_parameters_cannot_be_saved_as_an_adapter_and_are_refused(tmp_path: Path) -> None:
    tied = Classifier(nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)))
    first, second = tied.something  # type: ignore[misc]
    second.weight = first.weight
    with pytest.raises(RuntimeError, match="share memory"):
        save_file(tied.state_dict(), tmp_path / "adapter.safetensors")
    assert "something.0.weight: it is one tensor with something.1.weight" in texts(verdict(tied))
    second.weight = nn.Parameter(first.weight.detach(), requires_grad=False)  # the frozen layer moves, too
    assert "it is one tensor with" in texts(verdict(tied))
    second.weight = nn.Parameter(first.weight.detach().clone())
    assert verdict(tied) == Verdict((), ())
