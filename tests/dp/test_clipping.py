"""No sample weighs more than the clipping norm, and no model that mixes samples is trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dp.clipping import check_model, clip_and_sum


def gradients(samples: int = 6, scale: float = 3.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [scale * torch.randn(samples, *shape, generator=generator) for shape in [(4, 5), (7,)]]


def flatten(parts: list[torch.Tensor], sample: int) -> torch.Tensor:
    return torch.cat([part[sample].flatten() for part in parts]).double()


def test_a_long_gradient_is_scaled_to_the_norm_and_keeps_its_direction() -> None:
    one = [part[:1] for part in gradients()]
    clipped = torch.cat([part.flatten() for part in clip_and_sum(one, 0.5).parts]).double()
    original = flatten(one, 0)
    assert 0.5 * (1 - 1e-5) < float(clipped.norm()) <= 0.5
    assert torch.allclose(clipped / clipped.norm(), original / original.norm(), atol=1e-6)


def test_a_short_gradient_is_left_alone() -> None:
    one = [part[:1] for part in gradients(scale=1e-3)]
    for part, original in zip(clip_and_sum(one, 1.0).parts, one, strict=True):
        assert torch.equal(part, original[0])


def test_the_sum_is_the_sum_of_what_each_sample_gives_alone() -> None:
    many = gradients()
    alone = [clip_and_sum([part[index : index + 1] for part in many], 1.0).parts for index in range(6)]
    for position, part in enumerate(clip_and_sum(many, 1.0).parts):
        assert torch.allclose(part, sum(parts[position] for parts in alone), atol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_contributes_zero_and_is_counted(value: float) -> None:
    many = gradients()
    bad = [part.clone() for part in many]
    bad[1][2, 3] = value
    kept = [index for index in range(6) if index != 2]
    with_bad = clip_and_sum(bad, 1.0)
    without = clip_and_sum([part[kept] for part in many], 1.0)
    assert with_bad.finite.tolist() == [index != 2 for index in range(6)]
    for one, other in zip(with_bad.parts, without.parts, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_finite_gradient_too_long_for_float32_norms_is_still_clipped() -> None:
    clipped = clip_and_sum([torch.full((1, 100), 1e30)], 1.0)
    assert clipped.finite.tolist() == [True]
    assert float(clipped.parts[0].norm()) == pytest.approx(1.0, rel=1e-5)


def test_norms_of_half_precision_gradients_are_taken_in_full_precision() -> None:
    half = [torch.full((1, 4096), 1.0, dtype=torch.bfloat16)]
    (clipped,) = clip_and_sum(half, 1.0).parts
    assert clipped.dtype == torch.float32
    assert 1 - 1e-5 < float(clipped.double().norm()) <= 1.0


def test_no_samples_sum_to_zero() -> None:
    clipped = clip_and_sum([part[:0] for part in gradients()], 1.0)
    assert [part.shape for part in clipped.parts] == [(4, 5), (7,)]
    assert all(not part.any() for part in clipped.parts)


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


class WithBuffer(nn.Linear):
    def __init__(self) -> None:
        super().__init__(3, 3)
        self.register_buffer("running", torch.zeros(3))


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), "BatchNorm"),
        (nn.Sequential(nn.Linear(3, 3), frozen(nn.BatchNorm1d(3))), "BatchNorm"),
        (frozen(nn.Linear(3, 3)), "no parameter is trainable"),
        (nn.Sequential(nn.LSTM(3, 3, dropout=0.5, num_layers=2)), "dropout"),
        (nn.Sequential(WithBuffer()), "buffers"),
        (nn.Sequential(nn.Linear(3, 3), nn.InstanceNorm1d(3, affine=True, track_running_stats=True)), "buffers"),
    ],
)
def test_a_model_that_mixes_samples_is_named_with_its_fix(model: nn.Module, problem: str) -> None:
    problems = check_model(model)
    assert any(problem in found.problem for found in problems)
    assert all(found.fix for found in problems)


def test_every_problem_is_found_at_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    assert [found.where for found in check_model(model)] == ["1", "2"]


def test_a_plain_model_has_no_problems() -> None:
    assert check_model(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Dropout(0.5))) == []
