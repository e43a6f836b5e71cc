"""Private local training: several DP-SGD steps over one site's patients, with Opacus.

Opacus's hooks give per-sample gradients, and its optimiser sets the order of a step: clip, add up, noise, scale, move
(Abadi et al. 2016, algorithm 1; Yousefpour et al. 2021). Three things are our own. The noise comes from
`crypto.randomness`, not from a statistical generator. The loss gives one number per record, because a model's built-in
loss may average over the batch, so that one record affects the others. The denominator is the public q * N, never the
size of a draw.

The timing shows nothing about the draw. Every step runs the same number K of physical batches of the same shape, even
if nobody is drawn: rows whose loss has weight 0, and whose gradient is exactly zero, fill them up. Opacus sees them as
the parts of one large batch: it clips and adds up each part, and noises, scales and moves after the last. Zeros added
to a sum of clipped gradients do not change the sum that the accountant counts. A step draws more than K batches hold
with a probability below 2^-40, which `dp.delta_terms` charges for; the patients beyond K batches contribute zero.

The forward pass is in evaluation mode, so there is no dropout. Only the layers that own trainable parameters are set to
training mode, because Opacus's hooks check for it.

The proximal term of FedProx (Li et al. 2020), mu/2 |x - x_t|^2, holds a round near its start x_t. Its gradient mu (x -
x_t) depends only on values that are noised already, and on no data. It is added after a step is clipped, noised and
scaled, so it costs no privacy and uses up nothing of C.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from opacus.grad_sample import GradSampleHooks, register_grad_sampler
from opacus.grad_sample.layer_norm import compute_layer_norm_grad_sample
from opacus.optimizers import DPOptimizer
from opacus.utils.tensor_utils import sum_over_all_but_batch_and_last_n
from torch import Tensor, nn

from crypto.randomness import NoiseSecret, NoiseStream
from dp.clipping import check_model, clip_and_sum, owns_trainable_parameters
from dp.errors import UnsuitableModel
from dp.sampling import Patients, draw
from dp.step_plan import LocalPlan, NodePlan

IGNORED = -100
"""The label of a position that has none, as in torch and transformers."""
_log = logging.getLogger(__name__)


@register_grad_sampler(nn.LayerNorm)  # type: ignore[untyped-decorator]  # Opacus has no types
def _layer_norm_gradients(
    layer: nn.LayerNorm, activations: list[Tensor], backprops: Tensor
) -> dict[nn.Parameter, Tensor]:
    """As Opacus's own, which fails on a LayerNorm without a bias, such as the one in ModernBERT's head."""
    if layer.bias is not None:
        return dict(compute_layer_norm_grad_sample(layer, activations, backprops))
    normal = nn.functional.layer_norm(activations[0], layer.normalized_shape, eps=layer.eps)
    return {layer.weight: sum_over_all_but_batch_and_last_n(normal * backprops, layer.weight.dim())}


class NoisyOptimizer(DPOptimizer):  # type: ignore[misc]  # Opacus has no types
    """Opacus's optimiser with noise from a `NoiseStream`, clipping of our own, and a public denominator.

    Create it at the start of a round: FedProx's proximal term pulls back to the parameters' values at that time.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, stream: NoiseStream, plan: LocalPlan, names: Sequence[str]
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.clip,
            expected_batch_size=None,
            loss_reduction="sum",
        )
        self.non_finite = 0
        """How many drawn patients contributed zero because their gradient was not finite."""
        self.counted = 0
        """The number of samples of the physical batch that belong to drawn patients; fillers come after them."""
        self._stream = stream
        self._denominator = plan.sampling_rate * plan.nominal_patients
        self._names = tuple(names)
        self._mu = plan.proximal_mu
        self._start = [parameter.detach().clone() for parameter in self.params] if self._mu else []

    def pre_step(self, closure: Callable[[], float] | None = None) -> bool:
        """Check that every parameter has per-sample gradients, run the step in Opacus's order, then add FedProx's term.

        Returns:
            Whether the gradient is finished, so that the parameters may move: only after the last physical batch.

        Raises:
            UnsuitableModel: a trainable parameter has no per-sample gradient, so nothing would bound what it reveals.
        """
        for name, parameter in zip(self._names, self.params, strict=True):
            if parameter.grad_sample is None:
                raise UnsuitableModel(
                    f"{name} has no per-sample gradient: the forward pass does not use it through a layer that "
                    "Opacus can follow. Freeze it, or choose another kind of adapter"
                )
        finished = bool(super().pre_step(closure))
        if finished:
            self._add_proximal_gradient()
        return finished

    def clip_and_accumulate(self) -> None:
        """Clip this physical batch's per-sample gradients and add them to the step's sum."""
        clipped = clip_and_sum(self.grad_samples, self.max_grad_norm)
        self.non_finite += int((~clipped.finite[: self.counted]).sum())
        for parameter, part in zip(self.params, clipped.parts, strict=True):
            parameter.summed_grad = part if parameter.summed_grad is None else parameter.summed_grad + part

    def add_noise(self) -> None:
        """Add N(0, (sigma C)^2) to every coordinate of the step's sum, in float64."""
        sizes = [parameter.numel() for parameter in self.params]
        noise = torch.from_numpy(self._stream.gaussian(sum(sizes), self.noise_multiplier * self.max_grad_norm))
        for parameter, part in zip(self.params, torch.split(noise, sizes), strict=True):
            total = parameter.summed_grad.to(torch.float64) + part.to(parameter.device).view_as(parameter)
            parameter.grad = total.to(parameter.dtype)

    def scale_grad(self) -> None:
        """Divide by q * N, which is public; the number of patients drawn is not."""
        for parameter in self.params:
            parameter.grad /= self._denominator

    def _add_proximal_gradient(self) -> None:
        """Add mu (x - x_t) to a gradient that is otherwise finished: this term must not be clipped or noised."""
        if self._mu:
            for parameter, start in zip(self.params, self._start, strict=True):
                parameter.grad += self._mu * (parameter.detach() - start)


def train_locally(
    model: nn.Module,
    patients: Patients,
    plan: LocalPlan,
    secret: NoiseSecret,
    round_number: int,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Train the model's trainable parameters in place, privately, for one round.

    Args:
        model: called as `model(**inputs)`; gives an object with `.logits`, as `record_losses` takes it.
        patients: the site's tokenised records.
        plan: the round's public figures.
        secret: this round's noise secret; the caller wipes it afterwards.
        round_number: names the round's coins and noise.
        progress: called with the number of steps done after each step.

    Raises:
        UnsuitableModel: the model mixes samples or has parameters without per-sample gradients. The text lists
            every problem with its fix.
    """
    problems = check_model(model)
    if problems:
        raise UnsuitableModel("the model cannot be trained privately: " + "; ".join(map(str, problems)))
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    with per_sample_gradients(model):
        optimizer = NoisyOptimizer(
            fresh_optimizer([parameter for _, parameter in named], plan),
            secret.stream("noise", round_number),
            plan,
            [name for name, _ in named],
        )
        for step in range(1, plan.steps + 1):
            rows = draw(patients.rows, plan.sampling_rate, secret, round_number, step)
            _private_step(model, optimizer, patients, rows, plan)
            if progress is not None:
                progress(step)
        if optimizer.non_finite:
            _log.warning(
                "%d drawn records had a gradient that is not finite and contributed zero", optimizer.non_finite
            )


@contextmanager
def per_sample_gradients(model: nn.Module) -> Iterator[None]:
    """Inside the block a backward pass leaves `.grad_sample`, of shape (samples, *shape), on trainable parameters.

    The loss must be a sum over samples. Afterwards the model is as before, except for its weights: no hooks, no
    gradients, the same modes.
    """
    with evaluation(model, trained_layers_train=True):
        hooks = GradSampleHooks(model, loss_reduction="sum")
        try:
            with warnings.catch_warnings():
                # The lowest adapter's input needs no gradient, because everything below is frozen. This is intended.
                warnings.filterwarnings("ignore", message="Full backward hook is firing")
                yield
        finally:
            hooks.cleanup()
            for module in model.modules():
                for leftover in ("activations", "max_batch_len"):
                    module.__dict__.pop(leftover, None)
            for parameter in model.parameters():
                parameter.grad = None
                parameter.__dict__.pop("summed_grad", None)


@contextmanager
def plain_gradients(model: nn.Module) -> Iterator[None]:
    """Inside the block the whole model is in evaluation mode, and a backward pass leaves `.grad` as usual. Afterwards
    the model is as before, except for its weights."""
    with evaluation(model):
        try:
            yield
        finally:
            for parameter in model.parameters():
                parameter.grad = None


@contextmanager
def evaluation(model: nn.Module, trained_layers_train: bool = False) -> Iterator[None]:
    """Inside the block the model is in evaluation mode; afterwards every part of it has its former mode again.

    Args:
        model: any.
        trained_layers_train: whether the layers that own trainable parameters are in training mode all the same, as
            Opacus's hooks require.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    for module in model.modules():
        if trained_layers_train and owns_trainable_parameters(module):
            module.training = True
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def record_losses(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy of each record on its own, in float32, of shape (records,). Never the model's own loss.

    With a label for each position it is the mean over a record's own labelled positions, never over those of the batch:
    there a long record would affect a short one. A record without labelled positions has a loss of zero, and no
    gradient.

    Args:
        model: gives an object with `.logits` of shape (records, classes), or (records, positions, classes).
        inputs: what it is called with.
        labels: int64, of shape (records,), or (records, positions), where `IGNORED` stands for no label.
    """
    logits = model(**inputs).logits.to(torch.float32)
    if labels.dim() == 1:
        return nn.functional.cross_entropy(logits, labels, reduction="none")
    losses = nn.functional.cross_entropy(
        logits.flatten(end_dim=1), labels.flatten(), reduction="none", ignore_index=IGNORED
    )
    labelled = (labels != IGNORED).sum(dim=1).clamp(min=1)
    return losses.view(labels.shape).sum(dim=1) / labelled


def physical_batches(rows: Sequence[int], size: int, batches: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The rows in `batches` batches of exactly `size`, each with its weights: 1 for a drawn row, 0 for a filler.

    Fillers repeat the site's first record, regardless of the draw, because it is a valid input of the model. Rows
    beyond the last batch are left out.
    """
    for number in range(batches):
        part = list(rows[number * size : (number + 1) * size])
        filler = size - len(part)
        yield torch.tensor(part + [0] * filler), torch.tensor([1.0] * len(part) + [0.0] * filler)


def _private_step(
    model: nn.Module, optimizer: NoisyOptimizer, patients: Patients, rows: Sequence[int], plan: LocalPlan
) -> None:
    """One noised step over the drawn rows."""
    optimizer.zero_grad(set_to_none=True)
    device = optimizer.params[0].device
    left = plan.batches
    for index, weights in physical_batches(rows, plan.physical_batch, plan.batches):
        left -= 1
        inputs = {name: tensor[index].to(device) for name, tensor in patients.inputs.items()}
        losses = record_losses(model, inputs, patients.labels[index].to(device))
        torch.autograd.backward((losses * weights.to(device)).sum())
        optimizer.counted = int(weights.sum())
        optimizer.signal_skip_step(do_skip=left > 0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def fresh_optimizer(parameters: list[nn.Parameter], plan: LocalPlan | NodePlan) -> torch.optim.Optimizer:
    """The plan's local optimiser, without any state from earlier rounds."""
    if plan.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=plan.learning_rate)
    return torch.optim.SGD(parameters, lr=plan.learning_rate)
