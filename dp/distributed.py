"""One step of DP-SGD over the union of all hospitals: what one hospital puts into the secure sum.

Each node adds up the clipped whole-number gradients of its drawn patients and one share of discrete Gaussian noise
(Kairouz, Liu and Steinke 2021; Abadi et al. 2016, algorithm 1, with the noise split among the nodes). A share has
variance sigma^2 C^2 / (t - c): t survivors, of which c may give theirs away or add none, leave a sum with at least the
noise that the accountant counts. No node sees another's gradient, and no party sees the sum without noise.

Nothing about the draw shows. Every step runs the same number K of physical batches of the same shape, filled up with
rows of weight zero; more than K batches are drawn with a probability below 2^-40, which the accountant adds to delta,
and the patients beyond contribute zero. A patient whose gradient is not finite contributes zero, too.

Independence to the last bit (`dp.patients`) also needs a record's gradient to be the same at every place of a batch
and beside any others. `batches_are_independent` tries that on made-up records; where it does not hold, a physical batch
must hold one record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crypto.randomness import NoiseSecret
from dp.clipping import check_model
from dp.errors import UnsuitableModel
from dp.patients import Drawn, draw_patients, patient_vectors
from dp.sampling import Patients
from dp.step_plan import StepPlan
from dp.training import per_sample_gradients, record_losses


@dataclass(slots=True)
class StepResult:
    """What one step gives its hospital. Only `vector` leaves, under masks."""

    vector: NDArray[np.int64]
    """The finished contribution: patients and noise, of shape (D,)."""
    non_finite: int = field(default=0)
    """Drawn patients that contributed zero because their gradient was not finite. For the owner alone."""


def private_sum(
    model: nn.Module,
    patients: Patients,
    plan: StepPlan,
    secret: NoiseSecret,
    round_number: int,
    progress: Callable[[int], None] | None = None,
) -> StepResult:
    """One hospital's contribution to one step.

    Args:
        model: called as `model(**inputs)`; gives an object with `.logits` of shape (records, classes). Its trainable
            parameters, in the order of their names, make the flat vector.
        patients: the hospital's tokenised records, at least one.
        plan: the step's public figures.
        secret: this step's noise secret; the caller wipes it afterwards.
        round_number: names the step's coins and noise.
        progress: called with the number of physical batches done after each.

    Raises:
        UnsuitableModel: the model mixes samples, or a trainable parameter has no per-sample gradient.
    """
    problems = check_model(model)
    if problems:
        raise UnsuitableModel("the model cannot be trained privately: " + "; ".join(map(str, problems)))
    drawn = draw_patients(patients.rows, plan.sampling_rate, plan.most_records, secret, round_number)
    drawn = drawn[: plan.most_patients]
    total = np.zeros(sum(parameter.numel() for _, parameter in trained_parameters(model)), dtype=np.int64)
    result = StepResult(total)
    batches = record_gradients(model, patients, drawn, plan, progress)
    for vector in patient_vectors(drawn, batches, total.size, plan.clip, plan.grid):
        if vector is None:
            result.non_finite += 1
        else:
            total += vector
    total += draw_noise(secret, round_number, total.size, plan.noise_variance)
    return result


def draw_noise(secret: NoiseSecret, round_number: int, count: int, variance: Fraction) -> NDArray[np.int64]:
    """This node's share of the noise, in steps of the grid."""
    return secret.stream("noise", round_number).discrete_gaussian(count, variance)


def batches_are_independent(model: nn.Module, patients: Patients, physical_batch: int) -> bool:
    """Whether a record's gradient has the same bits at every place of a batch and beside any others.

    Tried on made-up records: token ids of the data's shape that follow a fixed pattern, and nobody's record.
    """
    inputs = {name: _made_up(tensor, physical_batch) for name, tensor in patients.inputs.items()}
    classes = int(model(**{name: tensor[:1] for name, tensor in inputs.items()}).logits.shape[1])
    labels = torch.arange(physical_batch) % classes
    parameters = trained_parameters(model)
    weights = torch.ones(physical_batch)
    buffer = gradient_buffer(parameters, physical_batch)
    with per_sample_gradients(model):
        first = _gradients(model, parameters, inputs, labels, weights, buffer).copy()
        for places in range(1, physical_batch):
            moved = {name: tensor.roll(places, 0) for name, tensor in inputs.items()}
            found = _gradients(model, parameters, moved, labels.roll(places, 0), weights, buffer)
            if not np.array_equal(np.roll(found, -places, axis=0), first):
                return False
        weights[1:] = 0
        alone = {name: tensor[:1].expand_as(tensor) for name, tensor in inputs.items()}
        found = _gradients(model, parameters, alone, labels[:1].expand_as(labels), weights, buffer)
        return np.array_equal(found[0], first[0])


def record_gradients(
    model: nn.Module,
    patients: Patients,
    drawn: Sequence[Drawn],
    plan: StepPlan,
    progress: Callable[[int], None] | None = None,
) -> Iterator[NDArray[np.float32]]:
    """The K physical batches of a step: gradients of the drawn records, one after another, then of fillers.

    Each is of shape (physical batch, D), and valid until the next is asked for. Fillers have a weight of zero.

    Raises:
        UnsuitableModel: a trainable parameter has no per-sample gradient.
    """
    queue = [row for entry in drawn for row in entry.rows]
    parameters = trained_parameters(model)
    buffer = gradient_buffer(parameters, plan.physical_batch)
    with per_sample_gradients(model):
        for number in range(plan.batches):
            part = queue[number * plan.physical_batch : (number + 1) * plan.physical_batch]
            filler = plan.physical_batch - len(part)
            index = torch.tensor(part + [0] * filler)
            weights = torch.tensor([1.0] * len(part) + [0.0] * filler)
            inputs = {name: tensor[index] for name, tensor in patients.inputs.items()}
            yield _gradients(model, parameters, inputs, patients.labels[index], weights, buffer)
            if progress is not None:
                progress(number + 1)


def trained_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The trainable parameters, by name: the order of the flat vector."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return sorted(named, key=lambda item: item[0])


def gradient_buffer(parameters: Sequence[tuple[str, nn.Parameter]], records: int) -> Tensor:
    """Room for the gradients of one physical batch, used again for every batch: fresh memory costs time."""
    dimension = sum(parameter.numel() for _, parameter in parameters)
    return torch.empty((records, dimension), dtype=torch.float32, device=parameters[0][1].device)


def flat_gradients(parameters: Sequence[tuple[str, nn.Parameter]], buffer: Tensor) -> NDArray[np.float32]:
    """Take the per-sample gradients of one physical batch off the parameters, and put them side by side.

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


def _gradients(
    model: nn.Module,
    parameters: Sequence[tuple[str, nn.Parameter]],
    inputs: dict[str, Tensor],
    labels: Tensor,
    weights: Tensor,
    buffer: Tensor,
) -> NDArray[np.float32]:
    """Per-record gradients of one physical batch, flat, of shape (records, D). Valid while `buffer` is not reused."""
    device = parameters[0][1].device
    losses = record_losses(model, {name: tensor.to(device) for name, tensor in inputs.items()}, labels.to(device))
    torch.autograd.backward((losses * weights.to(device)).sum())
    return flat_gradients(parameters, buffer)


def _made_up(tensor: Tensor, count: int) -> Tensor:
    """Rows of the tensor's shape that nobody has: every value is one that occurs, in a fixed pattern."""
    values = torch.unique(tensor)
    places = torch.arange(count * tensor[0].numel())
    made_up: Tensor = values[(places * 7919) % len(values)].reshape(count, *tensor.shape[1:])
    return made_up
