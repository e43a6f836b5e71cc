"""Bounds what one patient can do to a sum of gradients, and refuses models in which that cannot be bounded.

Clipping to the L2 norm C is that of DP-SGD (Abadi et al. 2016, algorithm 1). It bounds the sum's sensitivity only if a
sample's gradient depends on that sample alone, so the guards refuse layers that mix the samples of a batch. Norms are
accumulated in float64 and scaling is in float32, for models of any precision. The validator follows Opacus's: it
returns every problem, each with its fix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from opacus.validators import ModuleValidator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

# A clipped gradient stays this much below the norm, so that float32 rounding cannot push it above.
_ROUNDING_MARGIN = 1e-6


@dataclass(frozen=True, slots=True)
class ModelProblem:
    """One reason why a model cannot be trained privately."""

    where: str
    """The module's name inside the model; empty for the model itself."""
    problem: str
    """What is wrong."""
    fix: str
    """What to do about it."""

    def __str__(self) -> str:
        return f"{self.where or 'the model'}: {self.problem} ({self.fix})"


@dataclass(frozen=True, slots=True)
class ClippedSum:
    """The sum of clipped per-sample gradients."""

    parts: tuple[Tensor, ...]
    """One float32 tensor per parameter, of the parameter's shape."""
    finite: Tensor
    """Of shape (samples,), bool: whether the sample's gradient is finite. The others contributed zero."""


def clip_and_sum(gradients: Sequence[Tensor], clip: float) -> ClippedSum:
    """Scale every sample's gradient down to norm `clip` where it is longer, and add the samples up.

    Args:
        gradients: one tensor per parameter, of shape (samples, *parameter shape). A sample's gradient is its
            part of all of them together. Samples whose gradient has a NaN or an infinity contribute zero.
        clip: C, the largest L2 norm of one sample's gradient.
    """
    flat = [gradient.to(torch.float32).flatten(start_dim=1) for gradient in gradients]
    squares = torch.stack([torch.linalg.vector_norm(part, dim=1, dtype=torch.float64).square() for part in flat])
    norms = squares.sum(dim=0).sqrt()
    finite = torch.isfinite(norms)
    factors = (clip * (1 - _ROUNDING_MARGIN) / norms).clamp(max=1.0)
    factors = torch.where(finite, factors, 0.0).to(torch.float32)
    parts = []
    for part, gradient in zip(flat, gradients, strict=True):
        # 0 * NaN is NaN: a bad sample is replaced, not scaled. Always done, so that timing does not show a bad sample.
        kept = torch.where(finite[:, None], part, 0.0)
        parts.append((factors @ kept).reshape(gradient.shape[1:]))
    return ClippedSum(tuple(parts), finite)


def check_model(model: nn.Module, by_opacus: bool = True) -> list[ModelProblem]:
    """Every problem of the model's layers that rules out private training; an empty list if there is none.

    `dp.guards.check_step` finds the problems that show only when the model runs.

    Args:
        model: any.
        by_opacus: whether Opacus computes the gradients; one record at a time works with layers that Opacus does not
            know.
    """
    problems = []
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trainable:
        problems.append(ModelProblem("", "no parameter is trainable", "add an adapter or unfreeze a layer"))
    if len({parameter.device for _, parameter in trainable}) > 1:
        problems.append(ModelProblem("", "trainable parameters are on several devices", "move them to one"))
    for name, parameter in trainable:
        if parameter.dtype not in (torch.float32, torch.float64):
            text = f"it is trained in {parameter.dtype}, which is too coarse for small steps to move a weight"
            problems.append(ModelProblem(name, text, "keep it in float32; the frozen layers may have half precision"))
    problems.extend(_check_ties(model))
    for name, module in model.named_modules():
        problems.extend(_check_module(name, module))
        if by_opacus:
            problems.extend(check_by_opacus(name, module))
    return problems


def check_by_opacus(name: str, module: nn.Module) -> list[ModelProblem]:
    """Opacus's own reasons why it cannot follow a trained layer."""
    validator = ModuleValidator.VALIDATORS.get(type(module))
    if validator is None or not owns_trainable_parameters(module) or isinstance(module, _BatchNorm):
        return []
    return [ModelProblem(name, str(error), "replace the layer or freeze it") for error in validator(module)]


def owns_trainable_parameters(module: nn.Module) -> bool:
    """Whether a trainable parameter belongs to this very module, not to one inside it."""
    return any(parameter.requires_grad for parameter in module.parameters(recurse=False))


def _check_module(name: str, module: nn.Module) -> list[ModelProblem]:
    if isinstance(module, _BatchNorm):
        # Refused even when frozen: one call of train() would mix the samples of a batch.
        return [ModelProblem(name, "BatchNorm mixes the samples of a batch", "replace it by LayerNorm or GroupNorm")]
    if not owns_trainable_parameters(module):
        return []
    problems = []
    if any(True for _ in module.buffers(recurse=False)):
        problems.append(
            ModelProblem(name, "a trainable layer keeps buffers, which no noise protects", "freeze this layer")
        )
    if getattr(module, "dropout", 0.0) not in (0, 0.0):
        problems.append(ModelProblem(name, "a trainable layer has dropout inside", "set its dropout to 0"))
    return problems


def _check_ties(model: nn.Module) -> list[ModelProblem]:
    """Trained tensors with several names: a step on one moves the other, and a saved adapter holds only one."""
    names: dict[tuple[torch.device, int], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.numel() and not parameter.is_meta:
            names.setdefault((parameter.device, parameter.data_ptr()), []).append((name, parameter))
    return [
        ModelProblem(tied[0][0], f"it is one tensor with {tied[1][0]}", "untie the two, or freeze both")
        for tied in names.values()
        if len(tied) > 1 and any(parameter.requires_grad for _, parameter in tied)
    ]
