"""One step of DP-SGD over the union of all sites: what one site puts into the secure sum.

Each node adds up the clipped whole-number gradients of its drawn patients and one share of discrete Gaussian noise
(Kairouz, Liu and Steinke 2021; Abadi et al. 2016, algorithm 1, with the noise split among the nodes). A share has
variance sigma^2 C^2 / (t - c): if c of t survivors reveal their shares or add none, the sum still has at least the
noise that the accountant counts. No node sees another's gradient, and no party sees the sum without noise.

The timing shows nothing about the draw. Every step runs the same number K of physical batches of the same shape, filled
up with rows of weight zero, and clips as many gradients as the batches can hold patients. A step draws more than K
batches hold with a probability below 2^-40, which the accountant adds to delta; the patients beyond K batches
contribute zero. A patient whose gradient is not finite contributes zero, too.

Independence to the last bit (`dp.patients`) also requires that a record's gradient is the same at every place of a
batch and beside any other records. `dp.guards.check_step` tests that on made-up records. Where it fails, or Opacus
cannot follow the model, one record at a time goes through the model, by plain autograd: this is slower, and works with
any model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crypto.randomness import NoiseSecret
from dp.clipping import check_model
from dp.errors import UnsuitableModel
from dp.patients import Drawn, clip_nobody, draw_patients, patient_vectors
from dp.sampling import Patients
from dp.step_plan import StepPlan
from dp.training import per_sample_gradients, physical_batches, plain_gradients, record_losses

RecordLosses: TypeAlias = Callable[[nn.Module, dict[str, Tensor], Tensor], Tensor]
"""Model, inputs and labels of some records -> the loss of each record, of shape (records,)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One physical batch of records."""

    inputs: dict[str, Tensor]
    """What the model is called with, by argument name; each of shape (records, length)."""
    labels: Tensor
    """Of shape (records,), or (records, positions)."""
    weights: Tensor
    """Of shape (records,): 1 for a record that counts, 0 for a filler."""

    def on(self, device: torch.device, records: slice = slice(None)) -> Batch:
        """Some of the records, or all, on the model's device."""
        inputs = {name: tensor[records].to(device) for name, tensor in self.inputs.items()}
        return Batch(inputs, self.labels[records].to(device), self.weights[records].to(device))


@dataclass(slots=True)
class StepResult:
    """The result of one step at a site. Only `vector` leaves the site, masked."""

    vector: NDArray[np.int64]
    """The finished contribution: patients and noise, of shape (D,), or (D + 1,) where the plan has an indicator."""
    non_finite: int = field(default=0)
    """Drawn patients that contributed zero because their gradient was not finite. Only the owner sees this."""


def private_sum(
    model: nn.Module,
    patients: Patients,
    plan: StepPlan,
    secret: NoiseSecret,
    round_number: int,
    progress: Callable[[int], None] | None = None,
    one_at_a_time: bool = False,
) -> StepResult:
    """One site's contribution to one step.

    Args:
        model: called as `model(**inputs)`; gives an object with `.logits`, as `dp.training.record_losses` takes it. Its
            trainable parameters, in the order of their names, make the flat vector.
        patients: the site's tokenised records, at least one.
        plan: the step's public figures.
        secret: this step's noise secret; the caller wipes it afterwards.
        round_number: names the step's coins and noise.
        progress: called with the number of physical batches done after each.
        one_at_a_time: whether records go through the model singly; the verdict of `dp.guards.check_step` says so.

    Raises:
        UnsuitableModel: the model mixes samples, or a trainable parameter has no per-sample gradient.
    """
    problems = check_model(model, by_opacus=not one_at_a_time)
    if problems:
        raise UnsuitableModel("the model cannot be trained privately: " + "; ".join(map(str, problems)))
    drawn = draw_patients(patients.rows, plan.sampling_rate, plan.most_records, secret, round_number)
    drawn = drawn[: plan.most_patients]
    dimension = sum(parameter.numel() for _, parameter in trained_parameters(model))
    total = np.zeros(dimension + bool(plan.indicator), dtype=np.int64)
    result = StepResult(total)
    batches = record_gradients(model, patients, drawn, plan, progress, one_at_a_time)
    for vector in patient_vectors(drawn, batches, dimension, plan.clip, plan.grid, plan.indicator):
        if vector is None:
            result.non_finite += 1
        else:
            total += vector
    clip_nobody(plan.most_patients - len(drawn), dimension, plan.clip, plan.grid, plan.indicator)
    total += draw_noise(secret, round_number, total.size, plan.noise_variance)
    return result


def draw_noise(secret: NoiseSecret, round_number: int, count: int, variance: Fraction) -> NDArray[np.int64]:
    """This node's share of the noise, in steps of the grid."""
    return secret.stream("noise", round_number).discrete_gaussian(count, variance)


def record_gradients(
    model: nn.Module,
    patients: Patients,
    drawn: Sequence[Drawn],
    plan: StepPlan,
    progress: Callable[[int], None] | None = None,
    one_at_a_time: bool = False,
) -> Iterator[NDArray[np.float32]]:
    """The K physical batches of a step: gradients of the drawn records, one after another, then of fillers.

    Each is of shape (physical batch, D), and valid until the next is requested. Fillers have a weight of zero. With
    `one_at_a_time` every record, filler or not, has a forward pass of its own; the last bits differ from those of
    batches, because sums are taken in another order.

    Raises:
        UnsuitableModel: a trainable parameter has no gradient, or none per sample.
    """
    queue = [row for entry in drawn for row in entry.rows]
    parameters = trained_parameters(model)
    buffer = gradient_buffer(parameters, plan.physical_batch)
    gradients = single_gradients if one_at_a_time else batch_gradients
    with plain_gradients(model) if one_at_a_time else per_sample_gradients(model):
        for number, (index, weights) in enumerate(physical_batches(queue, plan.physical_batch, plan.batches)):
            inputs = {name: tensor[index] for name, tensor in patients.inputs.items()}
            yield gradients(model, parameters, Batch(inputs, patients.labels[index], weights), buffer)
            if progress is not None:
                progress(number + 1)


def trained_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The trainable parameters, by name: the order of the flat vector."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return sorted(named, key=lambda item: item[0])


def gradient_buffer(parameters: Sequence[tuple[str, nn.Parameter]], records: int) -> Tensor:
    """Memory for the gradients of one physical batch. Every batch reuses it, because allocating memory takes time."""
    dimension = sum(parameter.numel() for _, parameter in parameters)
    return torch.empty((records, dimension), dtype=torch.float32, device=parameters[0][1].device)


def flat_gradients(parameters: Sequence[tuple[str, nn.Parameter]], buffer: Tensor) -> NDArray[np.float32]:
    """Take the per-sample gradients of one physical batch from the parameters, and put them side by side.

    Args:
        parameters: as `trained_parameters` gives them, after a backward pass within `per_sample_gradients`.
        buffer: `gradient_buffer`'s.

    Returns:
        The buffer on the CPU, of shape (records, D): valid until the buffer is used again.

    Raises:
        UnsuitableModel: a parameter has no per-sample gradient.
    """
    parts = []
    for name, parameter in parameters:
        sample = getattr(parameter, "grad_sample", None)
        if sample is None:
            raise UnsuitableModel(
                f"{name} has no per-sample gradient: the forward pass does not use it through a layer that "
                "Opacus can follow. Freeze it, or choose another kind of adapter"
            )
        parts.append(sample.detach().to(torch.float32).flatten(start_dim=1))
        parameter.__dict__["grad_sample"] = None
        parameter.grad = None
    torch.cat(parts, dim=1, out=buffer)
    flat: NDArray[np.float32] = buffer.cpu().numpy()
    return flat


def batch_gradients(
    model: nn.Module,
    parameters: Sequence[tuple[str, nn.Parameter]],
    batch: Batch,
    buffer: Tensor,
    losses: RecordLosses = record_losses,
) -> NDArray[np.float32]:
    """Gradients of the weighted losses of one physical batch, flat, by Opacus: one pass, within `per_sample_gradients`.

    Args:
        model: any whose layers Opacus can follow.
        parameters: as `trained_parameters` gives them.
        batch: on any device.
        buffer: `gradient_buffer`'s.
        losses: of each record.

    Returns:
        Of shape (records, D); valid while `buffer` is not used again.

    Raises:
        UnsuitableModel: a parameter has no per-sample gradient.
    """
    here = batch.on(parameters[0][1].device)
    torch.autograd.backward((losses(model, here.inputs, here.labels) * here.weights).sum())
    return flat_gradients(parameters, buffer)


def single_gradients(
    model: nn.Module,
    parameters: Sequence[tuple[str, nn.Parameter]],
    batch: Batch,
    buffer: Tensor,
    losses: RecordLosses = record_losses,
) -> NDArray[np.float32]:
    """As `batch_gradients`, by plain autograd: a pass for each record, within `plain_gradients`. Works with any model.

    Raises:
        UnsuitableModel: the loss does not depend on a parameter.
    """
    device = parameters[0][1].device
    for record in range(len(batch.labels)):
        own = batch.on(device, slice(record, record + 1))
        # Not `autograd.grad`: reentrant checkpointing does not support it.
        torch.autograd.backward((losses(model, own.inputs, own.labels) * own.weights).sum())
        parts = []
        for name, parameter in parameters:
            if parameter.grad is None:
                raise UnsuitableModel(f"{name} has no gradient: the loss does not depend on it. Freeze it")
            parts.append(parameter.grad.to(torch.float32).flatten())
            parameter.grad = None
        torch.cat(parts, out=buffer[record])
    flat: NDArray[np.float32] = buffer.cpu().numpy()
    return flat
