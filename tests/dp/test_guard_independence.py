"""A record's gradient is its own: what others in its batch do to it moves the sum by more than the clip, and is found.

By a loss over the tokens of all, by layers that mix a batch, by dropout, by what a model remembers, and to the last bit
by kernels that feel the company.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from dp.distributed import RecordLosses
from dp.errors import UnsuitableModel
from dp.guards import Verdict, check_step, made_up_patients
from dp.training import evaluation, record_losses
from secfed.models.model import AdapterModel
from tests.dp.guarded import (
    PLAN,
    RARE,
    VOCABULARY,
    Classifier,
    behind_a_layer,
    clipped_sum,
    load,
    mixed_lengths,
    rows_of,
    taken_by_autograd,
    texts,
    vectors,
    verdict,
    without,
)
from tests.tiny import LENGTH, make_tiny_patients

pytestmark = [
    pytest.mark.usefixtures("one_thread", "seeded"),
    # PEFT still asks transformers under the old name.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]


# Own the loss


def token_losses(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Of each sequence, over its own tokens."""
    targets = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)[:, 1:]
    logits = model(**inputs).logits[:, :-1].float()
    each = nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    return each.sum(dim=1) / (targets != -100).sum(dim=1)


def shares_of_the_built_in_loss(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    """What the model's own loss makes of each sequence: the mean over all tokens of the batch, times its size."""
    targets = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    counts = (targets[:, 1:] != -100).sum(dim=1)
    built_in = model(**inputs, labels=targets).loss
    shares = token_losses(model, inputs, labels) * counts / counts.sum() * len(targets)
    assert torch.allclose(shares.mean(), built_in, atol=1e-5)
    return shares


def language_model() -> nn.Module:
    """A small causal language model whose last layer is trained."""
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0
    )
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    model.lm_head.requires_grad_(True)
    return model


def notes(lengths: Sequence[int]) -> dict[str, Tensor]:
    """Notes of so many tokens, padded to the longest of them and of all others."""
    tokens = (torch.arange(300) * 7 % 39 + 1).expand(len(lengths), 300)
    mask = (torch.arange(300) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": tokens * mask, "attention_mask": mask}


@pytest.mark.parametrize(
    ("losses", "least", "most"), [(shares_of_the_built_in_loss, 8.0, 10.0), (token_losses, 0, 1.0)]
)
def test_one_long_note_moves_the_sum_by_eight_times_the_clip_if_the_loss_is_the_models_own(
    losses: RecordLosses, least: float, most: float
) -> None:
    model, labels = language_model(), torch.zeros(10, dtype=torch.int64)
    short = taken_by_autograd(model, notes([3] * 9), labels, losses)
    everybody = taken_by_autograd(model, notes([3] * 9 + [300]), labels, losses)
    clip = float(short.norm(dim=1).min())
    moved = float((clipped_sum(everybody, clip) - clipped_sum(short, clip)).norm()) / clip
    assert least <= moved <= most + 1e-5


@pytest.mark.parametrize("size", [2, 4])
def test_a_loss_over_all_tokens_of_a_batch_is_refused(size: int) -> None:
    made_up = made_up_patients(LENGTH, 40, 2)
    assert check_step(language_model(), made_up, size, losses=token_losses) == Verdict((), ())
    found = check_step(language_model(), made_up, size, losses=shares_of_the_built_in_loss)
    assert "alone and" in texts(found)
    with pytest.raises(UnsuitableModel, match="over its own tokens"):
        found.refuse()


def test_a_loss_that_is_one_number_for_the_batch_is_refused(adapter: AdapterModel) -> None:
    def mean(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        built_in: Tensor = model(**inputs, labels=labels).loss
        return built_in

    assert "not one number for each record" in texts(verdict(adapter.module, losses=mean))


# Independence


def moved_by_one_patient(model: nn.Module, clip: float = 0.01, before: Callable[[], object] = lambda: None) -> float:
    """By how many C the clipped sum of a batch of 20 moves when its first record goes, which is unlike the others."""
    patients = make_tiny_patients(20, records_each=1)
    patients.inputs["input_ids"][0] = RARE
    sums = []
    for first in (0, 1):
        before()
        inputs, labels = rows_of(patients, range(first, 20))
        sums.append(clipped_sum(taken_by_autograd(model, inputs, labels, record_losses), clip))
    return float((sums[0] - sums[1]).norm()) / clip


def less_the_mean(values: Tensor) -> Tensor:
    return values - values.mean(dim=0)


def attend_to_each_other(values: Tensor) -> Tensor:
    """Attention whose sequence is the batch: a dimension is out of place."""
    return nn.functional.scaled_dot_product_attention(values[None], values[None], values[None])[0]


def test_a_record_that_others_do_not_see_moves_the_sum_by_at_most_the_clip() -> None:
    assert moved_by_one_patient(Classifier(nn.Identity())) <= 1 + 1e-9


@pytest.mark.parametrize(
    ("mixing", "least"), [(nn.BatchNorm1d(16, affine=False), 1.3), (less_the_mean, 1.3), (attend_to_each_other, 1.3)]
)
def test_a_model_that_mixes_a_batch_moves_the_sum_by_more_than_the_clip_and_is_refused(
    mixing: nn.Module, least: float
) -> None:
    model = Classifier(mixing)
    assert moved_by_one_patient(model) > least
    found = verdict(model)
    assert "BatchNorm" in texts(found) or "alone and" in texts(found)
    assert found.problems


def test_a_public_dropout_seed_moves_the_sum_by_several_clips(base: Path) -> None:
    """Whoever knows the seed knows the masks. They follow the place in the batch, and all later records move up."""
    model = load(base).requires_grad_(False).train()
    model.classifier.requires_grad_(True)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    moved = moved_by_one_patient(model, before=lambda: torch.manual_seed(7))
    assert moved > 3.0
    with evaluation(model):
        assert moved_by_one_patient(model) <= 1 + 1e-5
    assert not verdict(model).problems, "the step is made in evaluation mode, where there is no dropout"


def seeded_dropout(values: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return values * torch.bernoulli(torch.full(values.shape, 0.5), generator=generator)


class OwnDropout(nn.Linear):
    """Drops out where it is told that it trains, and Opacus has trained layers told so."""

    def forward(self, values: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(values), 0.5, self.training)


@pytest.mark.parametrize(
    ("dropping", "problem"),
    [
        (lambda values: nn.functional.dropout(values, 0.5), "draws random numbers"),
        (lambda values: nn.functional.dropout(values, 1e-9), "draws random numbers"),
        (OwnDropout(16, 16), "draws random numbers"),
        (seeded_dropout, "alone and"),
        (lambda values: values * torch.from_numpy(np.random.rand(16)).float(), "changes when it is computed again"),
    ],
)
def test_dropout_that_evaluation_mode_does_not_switch_off_is_refused(
    dropping: Callable[[Tensor], Tensor], problem: str
) -> None:
    model, state = Classifier(dropping), torch.get_rng_state()
    assert problem in texts(verdict(model))
    assert torch.equal(torch.get_rng_state(), state)


class Remembering(nn.Module):
    """Centres by what it saw before, in evaluation mode as well."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(16))

    def forward(self, values: Tensor) -> Tensor:
        centred = values - self.seen
        self.seen += 0.1 * values.detach().mean(dim=0)
        return centred


def test_a_model_that_remembers_records_moves_later_sums_and_is_refused() -> None:
    patients = make_tiny_patients(20, records_each=1)
    patients.inputs["input_ids"][0] = RARE

    def second_batch(first: Sequence[int]) -> Tensor:
        model = Classifier(Remembering())
        record_losses(model, *rows_of(patients, first))
        return clipped_sum(taken_by_autograd(model, *rows_of(patients, range(10, 20)), record_losses), 0.01)

    moved = second_batch(range(1, 10)) - second_batch(range(10))
    assert float(moved.norm()) > 0.2 * 0.01, "by a patient who is not in this batch at all"
    model = Classifier(Remembering())
    assert "something.seen: a forward pass changes this buffer" in texts(verdict(model))
    assert not model.something.seen.any()  # type: ignore[union-attr]


def test_a_model_that_fails_on_records_of_this_shape_is_refused_before_data_is_opened(adapter: AdapterModel) -> None:
    too_long = check_step(adapter.module, made_up_patients(64, VOCABULARY, 3), 4)
    assert "fails on made-up records" in texts(too_long)
    unknown = check_step(adapter.module, made_up_patients(LENGTH, VOCABULARY, 4, count=4), 4)
    assert "fails on made-up records" in texts(unknown)


# Independence to the last bit


def feels_the_mean(values: Tensor) -> Tensor:
    """By a few roundings, as a kernel that is chosen by the batch does."""
    return values * (1 + 2.0**-14 * values.mean())


def feels_its_place(values: Tensor) -> Tensor:
    """As a kernel that treats the rows at the end of a batch in another way does."""
    return values * (1 + 2.0**-14 * torch.arange(len(values))[:, None])


class FeelsFillers(torch.autograd.Function):
    """As a kernel that skips rows of zeros does, in the backward pass only."""

    @staticmethod
    def forward(context: object, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        return gradient * (1 + 2.0**-14 * (gradient == 0).all(dim=1).sum())


@pytest.mark.parametrize(
    "feeling", [feels_the_mean, feels_its_place, FeelsFillers.apply], ids=["mean", "place", "fillers"]
)
def test_company_that_shows_in_the_last_bits_moves_many_vectors_and_records_go_one_at_a_time(
    feeling: Callable[[Tensor], Tensor],
) -> None:
    model, patients = Classifier(behind_a_layer(feeling)), mixed_lengths(20)
    plan = replace(PLAN, sampling_rate=0.5, physical_batch=6)
    everybody = vectors(model, patients, plan)
    gone = list(everybody)[-3]
    rest = vectors(model, without(patients, gone), plan)
    assert any(rest[name] != everybody[name] for name in rest), "what one patient does has no bound any more"
    found = verdict(model)
    assert not found.problems
    assert "last bits" in texts(found)
    assert found.one_at_a_time
    everybody = vectors(model, patients, plan, one_at_a_time=True)
    rest = vectors(model, without(patients, gone), plan, one_at_a_time=True)
    assert rest == {name: vector for name, vector in everybody.items() if name != gone}


class Counting(torch.autograd.Function):
    """Keeps something from one backward pass to the next."""

    passes = 0

    @staticmethod
    def forward(context: object, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        Counting.passes += 1
        return gradient * (1 + 0.1 * Counting.passes)


def test_a_gradient_that_depends_on_the_records_before_it_cannot_be_mended_and_is_refused() -> None:
    model = Classifier(behind_a_layer(Counting.apply))
    patients = make_tiny_patients(6)
    assert vectors(model, patients, one_at_a_time=True) != vectors(model, patients, one_at_a_time=True)
    assert "depends on the records before it" in texts(verdict(model))


@pytest.mark.parametrize("one_at_a_time", [False, True])
def test_removing_a_patient_from_a_full_step_leaves_every_other_vector_as_it_was_bit_for_bit(
    adapter: AdapterModel, one_at_a_time: bool
) -> None:
    """With padded records, at a rate at which some are drawn, through the draw, the batches, the clip and the grid."""
    patients, plan = mixed_lengths(20, records_each=3), replace(PLAN, sampling_rate=0.6)
    everybody = vectors(adapter.module, patients, plan, one_at_a_time)
    assert 8 <= len(everybody) < 20
    for gone in (*list(everybody)[:2], next(name for name in patients.rows if name not in everybody)):
        rest = vectors(adapter.module, without(patients, gone), plan, one_at_a_time)
        assert rest == {name: vector for name, vector in everybody.items() if name != gone}
