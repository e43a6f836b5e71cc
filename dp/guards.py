"""Tests on made-up records, before a site opens its data, whether one step of this model is private.

Clipping bounds what one patient does to a sum only if a record's gradient depends on that record alone, is taken as the
accountant assumes, and belongs to the tensors that move. A model's structure does not show any of this: a layer, a loss
or a library may break it without an error, and the sum then looks as usual. So the guards run one step on made-up
records and check it in several ways. First, `dp.clipping.check_model` checks what the layers do show.

The guards refuse a model with a problem, unless processing one record at a time mends it. That helps where Opacus
cannot follow a layer (DoRA, LoRA on embeddings, checkpointing without re-entry), and where the last bits of a record's
gradient depend on the other records in its batch. The validator follows Opacus's: it returns every problem, each with
its fix. These are tests, not proofs: somebody can build a model that passes them and is not private.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dp.clipping import ModelProblem, check_by_opacus, check_model, owns_trainable_parameters
from dp.distributed import Batch, RecordLosses, batch_gradients, gradient_buffer, single_gradients, trained_parameters
from dp.errors import UnsuitableModel
from dp.sampling import Patients
from dp.training import evaluation, per_sample_gradients, plain_gradients, record_losses

SAME_TO_WITHIN = 1e-3
"""Relative differences below this come from rounding, when the same sums run in another order; larger ones have another
cause."""
LAST_BITS = "the last bits of a record's gradient depend on its place in the batch or on the other records"
"""The problem of a gradient that depends on its batch by rounding alone."""
_HALF_PRECISION_ROUNDINGS = 16
_NUDGE = 2.0**-5
_STEP = 2.0**-7
_GOLDEN = (math.sqrt(5) - 1) / 2
_ANOTHER = "choose another kind of adapter, or distributed mode, where records go through one at a time"
_SINGLY = "records go through the model one at a time, which takes longer"
_KNOWN_TO_BREAK = (
    ("lora_magnitude_vector", "DoRA, whose layer uses weights of other layers"),
    ("lora_embedding_", "LoRA on embeddings, whose matrices belong to no layer"),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the guards found. It does not depend on data."""

    problems: tuple[ModelProblem, ...]
    """Why steps of this model are not private, each with its fix."""
    mended: tuple[ModelProblem, ...]
    """Problems that are mended by passing records through the model one at a time."""

    def for_batches_alone(self) -> Verdict:
        """The verdict where records cannot go through singly, and rounding does not matter (`dp.training`): a layer
        that Opacus cannot follow is then a problem, and different last bits are not."""
        unfollowed = tuple(each for each in self.mended if each.problem != LAST_BITS)
        return Verdict(self.problems + tuple(replace(each, fix=_ANOTHER) for each in unfollowed), ())

    def for_whole_updates(self) -> Verdict:
        """The verdict where a node's update is clipped as a whole (`dp.node_update`): this needs no gradient of a
        single record, so there is nothing to mend."""
        return replace(self, mended=())

    @property
    def one_at_a_time(self) -> bool:
        """The argument of that name for `dp.distributed.private_sum`."""
        return bool(self.mended)

    def refuse(self) -> None:
        """Raise UnsuitableModel with every problem and its fix if there is one."""
        if self.problems:
            raise UnsuitableModel("the model cannot be trained privately: " + "; ".join(map(str, self.problems)))


def made_up_patients(length: int, vocabulary: int, classes: int, count: int = 3, padding: int = 0) -> Patients:
    """Made-up records of the shape that a study gives its records: some full, some mostly padding.

    Args:
        length: tokens of every record.
        vocabulary: token ids are below this.
        classes: labels are below this.
        count: number of records, each of another patient; at least 2.
        padding: the padding token.
    """
    tokens = made_up_tokens(count, length, vocabulary)
    mask = torch.ones_like(tokens)
    for record in range(1, count, 2):
        mask[record, max(1, length // (record + 1)) :] = 0
    rows = {f"made up {record}": (record,) for record in range(count)}
    tokens = torch.where(mask == 1, tokens, padding)
    return Patients({"input_ids": tokens, "attention_mask": mask}, torch.arange(count) % classes, rows)


def made_up_tokens(count: int, length: int, vocabulary: int) -> Tensor:
    """Token ids of shape (count, length), spread over the range below `vocabulary`: no two records are alike."""
    places = torch.arange(1, count * length + 1, dtype=torch.float64)
    return ((places * _GOLDEN) % 1 * vocabulary).long().reshape(count, length)


def check_step(
    model: nn.Module,
    made_up: Patients,
    physical_batch: int,
    moved: Mapping[str, nn.Parameter] | None = None,
    losses: RecordLosses = record_losses,
) -> Verdict:
    """Run one step of the model on made-up records, and find every problem that would make it not private.

    Afterwards the model is as it was before, to the last bit.

    Args:
        model: called as `model(**inputs)`.
        made_up: at least two records, as `made_up_patients` gives them; never a site's.
        physical_batch: records of a batch.
        moved: the parameters that a step will move, by the model's names: an optimiser's parameters, or those that
            receive a state. By default all trainable ones.
        losses: the loss of a step.
    """
    moved = dict(trained_parameters(model)) if moved is None else moved
    problems = check_model(model, by_opacus=False) + _check_names(model, moved)
    if problems:
        return Verdict(tuple(problems), ())
    step = _Step(model, made_up, physical_batch, losses)
    with step.off_the_start():
        problems = step.check_losses()
        if problems:
            return Verdict(tuple(problems), ())
        single, problems = step.check_singly()
        if single is None:
            return Verdict(tuple(problems), ())
        problems = step.check_movement(moved, single)
        mended = step.check_batches(single)
    for name, module in model.named_modules():
        mended.extend(ModelProblem(name, each.problem, _SINGLY) for each in check_by_opacus(name, module))
    return Verdict(tuple(problems), tuple(mended))


def _check_names(model: nn.Module, moved: Mapping[str, nn.Parameter]) -> list[ModelProblem]:
    """A step must move exactly the trainable parameters, by name: no frozen one, and all trainable ones."""
    trainable = {name for name, _ in trained_parameters(model)}
    problems = [
        ModelProblem(name, "a step should move it, but it is frozen or does not exist", "unfreeze it, or leave it out")
        for name in moved
        if name not in trainable
    ]
    left = (name for name in sorted(trainable) if name not in moved)
    return problems + [ModelProblem(name, "it is trainable, but no step moves it", "freeze it") for name in left]


class _Step:
    """One step on made-up records. Each check says what it compares."""

    def __init__(self, model: nn.Module, made_up: Patients, physical_batch: int, losses: RecordLosses) -> None:
        if made_up.records < 2:
            raise ValueError("two records or more are needed for a comparison")
        self._model = model
        self._parameters = trained_parameters(model)
        self._device = self._parameters[0][1].device
        self._inputs, self._labels, self._losses = made_up.inputs, made_up.labels, losses
        self._records = made_up.records
        self._size = physical_batch
        coarsest = max(torch.finfo(each.dtype).eps for each in model.parameters() if each.is_floating_point())
        self._tolerance = max(SAME_TO_WITHIN, _HALF_PRECISION_ROUNDINGS * coarsest)

    @contextmanager
    def off_the_start(self) -> Iterator[None]:
        """Inside the block the trained values are shifted a little: at its start a LoRA's B is zero, so A gets no
        gradient. Afterwards the values and the state of torch's random numbers are as before."""
        before = [parameter.detach().clone() for _, parameter in self._parameters]
        cards = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(cards):
            try:
                for _, parameter in self._parameters:
                    places = torch.arange(1, parameter.numel() + 1, dtype=torch.float64)
                    nudge = ((places * _GOLDEN) % 1 - 0.5) * _NUDGE
                    _put(parameter, parameter.detach() + nudge.to(parameter).view_as(parameter))
                yield
            finally:
                for (_, parameter), value in zip(self._parameters, before, strict=True):
                    _put(parameter, value)

    def check_losses(self) -> list[ModelProblem]:
        """Each record has a loss of its own, in float32, from that record alone; nothing is random, and no state is
        kept."""
        buffers = {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        state = _random_state(self._device)
        problems = []
        # Trained layers are in training mode, as under Opacus's hooks, so that the check sees what they do then.
        with torch.no_grad(), evaluation(self._model, trained_layers_train=True):
            try:
                problems.extend(self._compare_losses())
            except Exception as error:  # any error of the model; its text is safe: the records are made up
                text = f"it fails on made-up records: {error}"
                problems.append(ModelProblem("", text, "check the model, and the study's length and labels"))
            if not torch.equal(state, _random_state(self._device)):
                fix = "switch off every dropout, in the layers and in what they call"
                problems.insert(0, ModelProblem("", "its forward pass draws random numbers", fix))
            for name, buffer in self._model.named_buffers():
                if name in buffers and not torch.equal(buffer, buffers[name]):
                    problems.append(ModelProblem(name, "a forward pass changes this buffer", "replace the layer"))
                    buffer.data = buffers[name]
        return problems

    def check_singly(self) -> tuple[NDArray[np.float32] | None, list[ModelProblem]]:
        """The records' gradients, one record at a time: finite, and with the same bits in any order."""
        order = torch.arange(self._records)
        problem = None
        with plain_gradients(self._model):
            try:
                first = self._gradients(order, single_gradients)
                again = self._gradients(order.flip(0), single_gradients)[::-1]
            except UnsuitableModel as error:
                return None, [ModelProblem("", str(error), "or let the forward pass use it")]
            except RuntimeError as error:
                problem = ModelProblem("", f"it has no gradient: {error}", "do not detach what is trained")
                return None, [problem]
        if not np.isfinite(first).all():
            problem = ModelProblem("", "its gradient is not finite on made-up records", "load it in float32")
        elif not np.array_equal(first, again):
            text = "a record's gradient depends on the records before it"
            problem = ModelProblem("", text, "keep nothing between records, and use deterministic kernels")
        return (first, []) if problem is None else (None, [problem])

    def check_movement(self, moved: Mapping[str, nn.Parameter], single: NDArray[np.float32]) -> list[ModelProblem]:
        """One step moves every trained tensor of the model: the tensors that the caller moves are the model's own."""
        problems, parameters = [], dict(self._parameters)
        for name, gradient in self._by_name(single.sum(axis=0)):
            own, held = parameters[name], moved[name]
            largest = float(np.abs(gradient).max(initial=0.0))
            if largest == 0:
                text = "its gradient is zero on made-up records, so it does not move"
                problems.append(ModelProblem(name, text, "freeze it, or let the forward pass use it"))
                continue
            own_before, held_before = own.detach().clone(), held.detach().clone()
            _put(held, held_before - torch.from_numpy(gradient * (_STEP / largest)).to(held).view_as(held))
            if torch.equal(own, own_before):
                text = "a step does not move it: the step moves a tensor that is not the model's own"
                problems.append(ModelProblem(name, text, "take the parameters from the model that is trained"))
            _put(held, held_before)
        return problems

    def check_batches(self, single: NDArray[np.float32]) -> list[ModelProblem]:
        """Opacus's gradients equal those of the record alone, with the same bits at every place and beside any other
        records."""
        companies = self._companies(self._size)
        try:
            with per_sample_gradients(self._model):
                alone = [
                    self._gradients(torch.full((self._size,), record), batch_gradients)
                    for record in range(self._records)
                ]
                together = [self._gradients(company, batch_gradients) for company in companies]
                beside_fillers = self._gradients(companies[0], batch_gradients, counted=1)
        except Exception as error:  # Opacus has no error class for layers that it cannot follow
            return self._not_followed(f"{type(error).__name__}: {error}")
        for record, batch in enumerate(alone):
            pairs = zip(self._by_name(batch[0]), self._by_name(single[record]), strict=True)
            for (name, found), (_, wanted) in pairs:
                slack = float(np.linalg.norm(wanted)) + self._tolerance * float(np.linalg.norm(single[record]))
                if not float(np.linalg.norm(found - wanted)) <= self._tolerance * slack:
                    return self._not_followed(f"{name} has a gradient that differs from plain autograd's")
        same = np.array_equal(beside_fillers[0], alone[companies[0][0]][0])
        for company, found in zip(companies, together, strict=True):
            same &= all(np.array_equal(row, alone[record][0]) for record, row in zip(company, found, strict=True))
        if same:
            return []
        return [ModelProblem("", LAST_BITS, _SINGLY)]

    def _compare_losses(self) -> list[ModelProblem]:
        order = list(range(self._records))
        alone = [self._loss(torch.tensor([record])) for record in order]
        again = [self._loss(torch.tensor([record])) for record in reversed(order)][::-1]
        companies = self._companies(self._records)
        together = [self._loss(company) for company in companies]
        if any(found.shape != (self._records,) for found in together):
            return [ModelProblem("", "its loss is not one number for each record", "use a loss of each record")]
        if alone[0].dtype not in (torch.float32, torch.float64):
            return [ModelProblem("", f"its loss is taken in {alone[0].dtype}", "take it in float32")]
        if not all(torch.equal(first, second) for first, second in zip(alone, again, strict=True)):
            text = "a record's loss changes when it is computed again"
            return [ModelProblem("", text, "keep nothing between records, and draw nothing")]
        for company, found in zip(companies, together, strict=True):
            for record, loss in zip(company.tolist(), found.tolist(), strict=True):
                single = float(alone[record])
                if not abs(loss - single) <= self._tolerance * max(1.0, abs(single)):
                    text = f"a record's loss is {single:.4g} alone and {loss:.4g} in a batch with others"
                    fix = "average each record's loss over its own tokens, and use no layer that sees the batch"
                    return [ModelProblem("", text, fix)]
        return []

    def _not_followed(self, detail: str) -> list[ModelProblem]:
        """Why Opacus's gradient is wrong, naming the known cause if there is one."""
        found = []
        for part, what in _KNOWN_TO_BREAK:
            name = next((name for name, _ in self._parameters if part in name), None)
            if name is not None:
                found.append(ModelProblem(name, f"Opacus cannot follow {what}", _SINGLY))
        if self._runs_again():
            text = "Opacus cannot follow checkpointing: layers run again in the backward pass"
            found.append(ModelProblem("", text, _SINGLY))
        return found or [ModelProblem("", f"Opacus cannot follow it: {detail}", _SINGLY)]

    def _runs_again(self) -> bool:
        """Whether a layer that owns trained parameters also runs in the backward pass."""
        runs: list[nn.Module] = []
        layers = [module for module in self._model.modules() if owns_trainable_parameters(module)]
        handles = [layer.register_forward_pre_hook(lambda module, _: runs.append(module)) for layer in layers]
        try:
            with plain_gradients(self._model):
                loss = self._loss(torch.tensor([0])).sum()
                forward = len(runs)
                torch.autograd.backward(loss)
        finally:
            for handle in handles:
                handle.remove()
        return len(runs) > forward

    def _companies(self, size: int) -> list[Tensor]:
        """Batches in which every record has other neighbours and other places."""
        return [(torch.arange(size) + shift) % self._records for shift in range(self._records)]

    def _loss(self, rows: Tensor) -> Tensor:
        inputs = {name: tensor[rows].to(self._device) for name, tensor in self._inputs.items()}
        return self._losses(self._model, inputs, self._labels[rows].to(self._device))

    def _gradients(
        self, rows: Tensor, by: Callable[..., NDArray[np.float32]], counted: int | None = None
    ) -> NDArray[np.float32]:
        """The gradients of these rows: the first `counted` (by default all) have weight 1, the others 0."""
        weights = (torch.arange(len(rows)) < (len(rows) if counted is None else counted)).to(torch.float32)
        batch = Batch({name: tensor[rows] for name, tensor in self._inputs.items()}, self._labels[rows], weights)
        buffer = gradient_buffer(self._parameters, len(rows))
        return by(self._model, self._parameters, batch, buffer, self._losses)

    def _by_name(self, flat: NDArray[np.float32]) -> list[tuple[str, NDArray[np.float32]]]:
        """The part of a flat vector for each trained tensor."""
        ends = np.cumsum([parameter.numel() for _, parameter in self._parameters])
        return [(name, part) for (name, _), part in zip(self._parameters, np.split(flat, ends[:-1]), strict=True)]


def _put(parameter: nn.Parameter, value: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(value)


def _random_state(device: torch.device) -> Tensor:
    """The state of torch's random numbers; drawing one changes it."""
    state = torch.get_rng_state()
    return torch.cat([state, torch.cuda.get_rng_state(device)]) if device.type == "cuda" else state
