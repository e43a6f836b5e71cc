"""One round of DP-FedAvg: the contribution to the secure sum of a node that is one unit of privacy, such as a
household.

McMahan et al. 2018, "Learning Differentially Private Recurrent Language Models": a node trains on its own data in any
way, and the change of its weights is clipped *once*, as a whole. Local steps need no noise and no gradient of a single
record, because only the finished vector leaves the node, and its norm is at most C whatever the steps were. Clipping
every step instead would bound the whole by C times the number of steps.

After the clip everything is as for patients (`dp.distributed`): whole numbers, rounded toward zero, their norm checked
again, and a share of discrete Gaussian noise of variance sigma^2 C^2 / (t - c). Two things differ. There is no draw:
the others see that a node takes part, so sampling would hide nothing; what stays hidden is whether its vector comes
from its data or is zero. And a sum of n nodes costs one release, for any number of local steps.

A round's duration shows nothing about the data: every node makes the same number of steps with the same number of
records, and repeats records if it has too few. An update that is not finite contributes zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crypto.randomness import NoiseSecret
from dp.distributed import draw_noise, trained_parameters
from dp.patients import clipped_integers
from dp.sampling import Patients, shuffled_rows
from dp.step_plan import NodePlan
from dp.training import fresh_optimizer, plain_gradients, record_losses


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """The result of one round at a node. Only `vector` leaves the node, masked."""

    vector: NDArray[np.int64]
    """The finished contribution: clipped update and noise, of shape (D,), or (D + 1,) where the plan has an
    indicator."""
    finite: bool
    """Whether the update was finite; otherwise it contributed zero, and the vector is noise. Only the owner sees
    this."""


def private_update(
    model: nn.Module,
    data: Patients,
    plan: NodePlan,
    secret: NoiseSecret,
    round_number: int,
    progress: Callable[[int], None] | None = None,
) -> UpdateResult:
    """One node's contribution to one round.

    Args:
        model: called as `model(**inputs)`; gives an object with `.logits` of shape (records, classes). Its trainable
            parameters, in the order of their names, make the flat vector. Afterwards it is as before.
        data: all the node's tokenised records, at least one; how they are grouped does not matter.
        plan: the round's public figures.
        secret: this round's noise secret; the caller wipes it afterwards.
        round_number: names the round's choices and noise.
        progress: called with the number of local steps done after each.
    """
    update = local_update(model, data, plan, secret, round_number, progress)
    clipped = clipped_integers(update, plan.clip, plan.grid, plan.indicator)
    vector = np.zeros(update.size + bool(plan.indicator), dtype=np.int64) if clipped is None else clipped
    vector += draw_noise(secret, round_number, vector.size, plan.noise_variance)
    return UpdateResult(vector, finite=clipped is not None)


def local_update(
    model: nn.Module,
    data: Patients,
    plan: NodePlan,
    secret: NoiseSecret,
    round_number: int,
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.float64]:
    """x_local - x_t: how far local training moves the trainable parameters. Not private: it never leaves the node.

    The arguments are those of `private_update`.

    Returns:
        Of shape (D,), in the order of the parameters' names. The model has its starting values again, so it keeps
        nothing of the data.
    """
    parameters = [parameter for _, parameter in trained_parameters(model)]
    start = [parameter.detach().clone() for parameter in parameters]
    rows = shuffled_rows(data.records, secret, "row", round_number)
    try:
        with plain_gradients(model):
            optimizer = fresh_optimizer(parameters, plan)
            for step in range(1, plan.steps + 1):
                index = torch.tensor(list(islice(rows, plan.physical_batch)))
                _local_step(model, optimizer, data, index, start, plan.proximal_mu)
                if progress is not None:
                    progress(step)
        parts = [_flat(parameter) - _flat(before) for parameter, before in zip(parameters, start, strict=True)]
    finally:
        with torch.no_grad():
            for parameter, before in zip(parameters, start, strict=True):
                parameter.copy_(before)
    return np.concatenate(parts)


def _local_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Patients,
    index: Tensor,
    start: list[Tensor],
    proximal_mu: float,
) -> None:
    """One step on these rows: the mean of the records' losses, plus FedProx's mu/2 |x - x_t|^2 if the plan has one."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    device = parameters[0].device
    optimizer.zero_grad(set_to_none=True)
    inputs = {name: tensor[index].to(device) for name, tensor in data.inputs.items()}
    torch.autograd.backward(record_losses(model, inputs, data.labels[index].to(device)).mean())
    if proximal_mu:
        for parameter, before in zip(parameters, start, strict=True):
            if parameter.grad is not None:  # the loss does not depend on it, so it stays
                parameter.grad += proximal_mu * (parameter.detach() - before)
    optimizer.step()


def _flat(tensor: Tensor) -> NDArray[np.float64]:
    flat: NDArray[np.float64] = tensor.detach().cpu().to(torch.float64).flatten().numpy()
    return flat
