"""Every guard of a private step: what happens without it, in numbers, and that it refuses or mends.

Some are shown elsewhere. In `test_patients`: clipping records and adding them up weighs G times C, and rounding to the
nearest lets a norm grow. In `test_clipping`: norms of half-precision gradients, layers that are refused. In
`test_training`: the proximal gradient comes after clipping and noise. In `test_delta_terms`: batches too small for what
may be drawn. In `test_distributed`: a vector that is not finite, and no record moves another's.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import save_file
from scipy.stats import norm
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

from crypto.randomness import NoiseSecret
from dp.accounting import epsilon
from dp.distributed import (
    RecordLosses,
    batch_gradients,
    draw_noise,
    gradient_buffer,
    private_sum,
    record_gradients,
    single_gradients,
    trained_parameters,
)
from dp.errors import UnsuitableModel
from dp.guards import Verdict, check_step, made_up_patients
from dp.patients import clipped_integers, draw_patients, patient_vectors, square_sum
from dp.sampling import Patients
from dp.step_plan import StepPlan, batches_needed
from dp.training import evaluation, per_sample_gradients, record_losses
from secfed.models import AdapterModel
from tests.tiny import LABELS, LENGTH, SPECIAL, WORDS, make_tiny_patients

GRID = 1 << 20
PLAN = StepPlan(
    sampling_rate=1.0,
    clip=0.01,
    grid=GRID,
    most_records=2,
    physical_batch=4,
    batches=10,
    noise_variance=Fraction(10**11),
)
VOCABULARY = len(SPECIAL) + len(WORDS)
RARE = VOCABULARY - 1
"""A token that `Classifier` takes to be far away from all others."""
MADE_UP = made_up_patients(LENGTH, VOCABULARY, len(LABELS))

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # PEFT still asks transformers under the old name.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Layers start the same in every run."""
    with torch.random.fork_rng():
        torch.manual_seed(13)
        yield


def secret(value: int = 1) -> NoiseSecret:
    return NoiseSecret(lambda count: bytes([value]) * count)


def verdict(model: nn.Module, **options: object) -> Verdict:
    return check_step(model, MADE_UP, 4, **options)  # type: ignore[arg-type]


def texts(found: Verdict) -> str:
    """All that was found, without the fixes."""
    return "; ".join(f"{each.where}: {each.problem}" for each in (*found.problems, *found.mended))


def mixed_lengths(count: int, records_each: int = 2) -> Patients:
    """Patients some of whose records are full and some padded."""
    patients = make_tiny_patients(count, records_each)
    mask = patients.inputs["attention_mask"].clone()
    for row in range(0, len(mask), 3):
        mask[row, 3 + row % 4 :] = 0
    return replace(patients, inputs={"input_ids": patients.inputs["input_ids"] * mask, "attention_mask": mask})


def without(patients: Patients, gone: str) -> Patients:
    """The hospital without one patient, the others' records moved together."""
    kept = {name: rows for name, rows in patients.rows.items() if name != gone}
    order = [row for rows in kept.values() for row in rows]
    place = {row: at for at, row in enumerate(order)}
    return Patients(
        {name: tensor[order] for name, tensor in patients.inputs.items()},
        patients.labels[order],
        {name: [place[row] for row in rows] for name, rows in kept.items()},
    )


def clipped_sum(gradients: Tensor, clip: float) -> Tensor:
    """DP-SGD's sum as in the textbook, in float64, from gradients of shape (records, D)."""
    gradients = gradients.double()
    return (gradients * (clip / gradients.norm(dim=1, keepdim=True)).clamp(max=1.0)).sum(dim=0)


def taken_by_autograd(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor, losses: RecordLosses) -> Tensor:
    """Each record's gradient of the losses of a whole batch: what per-sample hooks take, with no guard around it."""
    parameters = [parameter for _, parameter in trained_parameters(model)]
    found = []
    for loss in losses(model, inputs, labels):
        parts = torch.autograd.grad(loss, parameters, retain_graph=True)
        found.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(found)


def rows_of(patients: Patients, rows: Sequence[int]) -> tuple[dict[str, Tensor], Tensor]:
    index = list(rows)
    return {name: tensor[index] for name, tensor in patients.inputs.items()}, patients.labels[index]


def vectors(
    model: nn.Module, patients: Patients, plan: StepPlan = PLAN, one_at_a_time: bool = False
) -> dict[str, bytes]:
    """Every drawn patient's finished vector, bit for bit, by name."""
    drawn = draw_patients(patients.rows, plan.sampling_rate, plan.most_records, secret(), 1)
    dimension = sum(parameter.numel() for _, parameter in trained_parameters(model))
    batches = record_gradients(model, patients, drawn, plan, one_at_a_time=one_at_a_time)
    made = patient_vectors(drawn, batches, dimension, plan.clip, plan.grid)
    return {
        entry.patient: b"" if vector is None else vector.tobytes() for entry, vector in zip(drawn, made, strict=True)
    }


def whole_numbers(vector: bytes) -> np.ndarray:
    return np.frombuffer(vector, dtype=np.int64)


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


class Classifier(nn.Module):
    """Embeds, does something, and classifies; `something` is where a test puts the harm."""

    def __init__(self, something: nn.Module | Callable[[Tensor], Tensor], width: int = 16) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        vectors = torch.randn(VOCABULARY, width, generator=generator)
        vectors[RARE] *= 10
        self.embedding = nn.Embedding.from_pretrained(vectors)
        self.something = something
        self.head = nn.Linear(width, len(LABELS))
        with torch.no_grad():
            self.head.weight.copy_(0.2 * torch.randn(len(LABELS), width, generator=generator))
            self.head.bias.zero_()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        embedded = (self.embedding(input_ids) * attention_mask[..., None]).sum(dim=1)
        return SimpleNamespace(logits=self.head(self.something(embedded)))


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
        (lambda values: values * torch.from_numpy(np.random.rand(16)).float(), "another when it is computed again"),
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
    assert "something.seen: a forward pass leaves something in it" in texts(verdict(model))
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


def behind_a_layer(something: Callable[[Tensor], Tensor]) -> nn.Module:
    """Something that what is trained feels in its own gradient."""

    class Something(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return something(values)

    return nn.Sequential(nn.Linear(16, 16), Something())


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


# One record at a time


def load(base: Path) -> nn.Module:
    """The tiny base with a head of its own, and no adapter."""
    model: nn.Module = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=len(LABELS), dtype=torch.float32
    )
    return model


def adapted(base: Path, **options: object) -> nn.Module:
    return get_peft_model(load(base), LoraConfig(task_type=TaskType.SEQ_CLS, r=2, lora_alpha=8, **options))


class Checkpointed(nn.Module):
    """Keeps no activations, and computes them again in the backward pass."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, **inputs: Tensor) -> SimpleNamespace:
        logits = checkpoint(lambda **given: self.inner(**given).logits, use_reentrant=False, **inputs)
        return SimpleNamespace(logits=logits)


UNFOLLOWED: dict[str, Callable[[Path], nn.Module]] = {
    "DoRA": lambda base: adapted(base, target_modules=["query"], use_dora=True),
    "LoRA on embeddings": lambda base: adapted(base, target_modules=["word_embeddings", "query"]),
    "checkpointing": lambda base: Checkpointed(adapted(base, target_modules=["query"])),
}


@pytest.mark.parametrize("name", UNFOLLOWED)
def test_what_opacus_cannot_follow_is_named_and_goes_one_record_at_a_time(base: Path, name: str) -> None:
    model, patients = UNFOLLOWED[name](base), mixed_lengths(6)
    with pytest.raises((UnsuitableModel, TypeError)):
        private_sum(model, patients, PLAN, secret(), 1)
    found = verdict(model)
    assert not found.problems
    assert f"Opacus cannot follow {name}" in texts(found)
    assert found.one_at_a_time
    plan = replace(PLAN, noise_variance=Fraction(1))
    result = private_sum(model, patients, plan, secret(), 1, one_at_a_time=found.one_at_a_time)
    expected = clipped_sum(patient_gradients(model, patients), PLAN.clip)
    assert np.abs(result.vector - expected.numpy() * GRID / PLAN.clip).max() < 6 * 5 + 8  # steps of the grid, and noise


def patient_gradients(model: nn.Module, patients: Patients) -> Tensor:
    """Plain autograd, a patient at a time."""
    parameters = [parameter for _, parameter in trained_parameters(model)]
    found = []
    with evaluation(model):
        for rows in patients.rows.values():
            loss = record_losses(model, *rows_of(patients, rows)).sum()
            found.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)]))
    return torch.stack(found)


def test_a_layer_whose_gradient_opacus_takes_wrongly_is_found_and_goes_one_record_at_a_time() -> None:
    """A layer whose weight is used outside of it once more: Opacus sees half of its gradient, and says nothing."""

    class UsedTwice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 16)

        def forward(self, values: Tensor) -> Tensor:
            inner: Tensor = self.linear(values)
            return inner + nn.functional.linear(values.tanh(), self.linear.weight)

    model = Classifier(UsedTwice())
    found = verdict(model)
    assert not found.problems
    assert "something.linear.weight has another gradient than by plain autograd" in texts(found)
    patients = mixed_lengths(6)
    wanted = clipped_sum(patient_gradients(model, patients), PLAN.clip).numpy() * GRID / PLAN.clip
    plan = replace(PLAN, noise_variance=Fraction(1))
    wrong = private_sum(model, patients, plan, secret(), 1).vector
    right = private_sum(model, patients, plan, secret(), 1, one_at_a_time=True).vector
    assert np.linalg.norm(wrong - wanted) > 0.1 * GRID
    assert np.abs(right - wanted).max() < 6 * 5 + 8


def test_one_record_at_a_time_gives_the_vectors_of_batches_to_within_a_few_steps_of_the_grid(
    adapter: AdapterModel,
) -> None:
    """The oracle for the path through Opacus. Both add the same numbers in float32, in another order."""
    patients = mixed_lengths(20)
    batched = vectors(adapter.module, patients)
    single = vectors(adapter.module, patients, one_at_a_time=True)
    assert single == vectors(adapter.module, patients, one_at_a_time=True)
    furthest = [np.abs(whole_numbers(batched[name]) - whole_numbers(single[name])).max() for name in batched]
    assert max(furthest) <= 4
    assert all(square_sum(whole_numbers(vector)) > 0.99 * GRID**2 for vector in single.values())


def test_one_record_at_a_time_makes_the_same_number_of_passes_whoever_is_drawn(adapter: AdapterModel) -> None:
    passes: list[int] = []
    handle = adapter.module.register_forward_pre_hook(lambda *_: passes.append(1))
    counts = []
    try:
        for rate in (1e-12, 0.5, 1.0):
            passes.clear()
            plan = replace(PLAN, sampling_rate=rate, batches=6)
            private_sum(adapter.module, make_tiny_patients(8), plan, secret(), 1, one_at_a_time=True)
            counts.append(len(passes))
    finally:
        handle.remove()
    assert counts == [6 * PLAN.physical_batch] * 3


def test_one_record_at_a_time_leaves_nothing_on_the_model(adapter: AdapterModel) -> None:
    def stop(batch: int) -> None:
        raise KeyboardInterrupt

    before = [(name, module.training, sorted(module.__dict__)) for name, module in adapter.module.named_modules()]
    with pytest.raises(KeyboardInterrupt):
        private_sum(adapter.module, make_tiny_patients(8), PLAN, secret(), 1, stop, one_at_a_time=True)
    after = [(name, module.training, sorted(module.__dict__)) for name, module in adapter.module.named_modules()]
    assert after == before
    assert all(parameter.grad is None for parameter in adapter.module.parameters())


def test_a_layer_that_opacus_refuses_is_trained_one_record_at_a_time_only() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.LSTM(16, 16, batch_first=True)

        def forward(self, values: Tensor) -> Tensor:
            found: Tensor = self.inner(torch.stack([values, -values], dim=1))[0][:, 1]
            return found

    model = Classifier(Recurrent())
    with pytest.raises(UnsuitableModel, match="LSTM"):
        private_sum(model, mixed_lengths(4), PLAN, secret(), 1)
    found = verdict(model)
    assert "LSTM" in texts(found)
    assert found.one_at_a_time
    assert not found.problems
    assert private_sum(model, mixed_lengths(4), PLAN, secret(), 1, one_at_a_time=True).non_finite == 0


# Not finite, and nothing drawn


def test_one_gradient_that_is_not_a_number_would_wipe_out_the_sum_and_contributes_zero(adapter: AdapterModel) -> None:
    patients, rare = make_tiny_patients(6, records_each=1), VOCABULARY + 1
    patients.inputs["input_ids"][2, 3] = rare
    with torch.no_grad():
        adapter.module.get_input_embeddings().weight[rare] = float("nan")  # type: ignore[operator, union-attr]
    wiped = clipped_sum(patient_gradients(adapter.module, patients), PLAN.clip)
    assert wiped.isnan().all()
    plan = replace(PLAN, noise_variance=Fraction(1))
    sick = private_sum(adapter.module, patients, plan, secret(), 1)
    healthy = private_sum(adapter.module, without(patients, "patient-2"), plan, secret(), 1)
    assert sick.vector.tolist() == healthy.vector.tolist()
    assert (sick.non_finite, healthy.non_finite) == (1, 0)


def test_a_model_whose_gradients_are_never_finite_is_refused() -> None:
    """The root of what is cut off at zero has an infinite slope there, times zero; the loss looks as ever."""
    model = Classifier(behind_a_layer(lambda values: (values * (values > 0)).sqrt()))
    assert private_sum(model, make_tiny_patients(6), PLAN, secret(), 1).non_finite == 6
    assert "not finite on made-up records" in texts(verdict(model))


def test_an_empty_draw_would_crash_the_model_and_sends_the_noise_share(adapter: AdapterModel) -> None:
    patients = make_tiny_patients(5)
    with pytest.raises(RuntimeError, match="0 elements"):
        adapter.module(**rows_of(patients, [])[0])
    plan = replace(PLAN, sampling_rate=1e-12)
    vector = private_sum(adapter.module, patients, plan, secret(), 1).vector
    assert vector.tolist() == draw_noise(secret(), 1, adapter.dimension, plan.noise_variance).tolist()


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
    assert "not the model's own tensor" in texts(found)


def test_a_frozen_tensor_that_a_step_is_to_move_is_named_and_a_trainable_one_that_none_moves(
    adapter: AdapterModel,
) -> None:
    moved = dict(trained_parameters(adapter.module))
    first, second, *_ = moved
    moved[first].requires_grad_(False)
    del moved[second]
    found = verdict(adapter.module, moved=moved)
    assert [each.where for each in found.problems] == [first, second]
    assert "frozen or not there" in found.problems[0].problem
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


# Sampling is what the accountant assumes

RATE, NOISE, STEPS, DELTA = 0.02, 0.9639, 500, 1e-5


def test_batches_in_a_fixed_order_cost_six_times_the_epsilon_of_coins() -> None:
    """A loader that does not shuffle: each patient is in one known batch of each of the ten epochs."""
    assert epsilon(RATE, NOISE, STEPS, DELTA) <= 3.0
    assert epsilon(1.0, NOISE, round(STEPS * RATE), DELTA) > 18.0


def test_a_shuffled_loader_breaks_delta_a_thousandfold_at_the_epsilon_of_coins() -> None:
    """One epoch, one patient of norm C against none, everybody else at -C: is the highest batch above a threshold?

    Batches of fixed size betray which one has a place left empty (Chua et al. 2024, "How Private are DP-SGD
    Implementations?", section 4): two hypotheses, one of the batches being 2 C or C above the others.
    """
    batches = round(1 / RATE)
    claimed = epsilon(RATE, NOISE, batches, DELTA)
    threshold = np.linspace(0, 12, 2001)
    others = norm.cdf(threshold / NOISE) ** (batches - 1)
    there = 1 - norm.cdf((threshold - 2) / NOISE) * others
    gone = 1 - norm.cdf((threshold - 1) / NOISE) * others
    assert float((there - math.exp(claimed) * gone).max()) > 1000 * DELTA


def test_dropping_the_last_batch_lets_the_number_of_steps_tell_and_here_it_is_planned(adapter: AdapterModel) -> None:
    def full_batches(patients: Patients) -> int:
        loader = torch.utils.data.DataLoader(list(patients.rows), batch_size=4, drop_last=True)
        return len(loader)

    patients = make_tiny_patients(20, records_each=1)
    assert full_batches(patients) != full_batches(without(patients, "patient-7"))
    done: list[list[int]] = [[], []]
    for hospital, seen in zip((patients, without(patients, "patient-7")), done, strict=True):
        private_sum(adapter.module, hospital, PLAN, secret(), 1, seen.append)
    assert done[0] == done[1] == list(range(1, PLAN.batches + 1))


def test_truncating_a_draw_lets_another_patient_in_and_enough_batches_are_counted(adapter: AdapterModel) -> None:
    patients = make_tiny_patients(20, records_each=2)
    small = replace(PLAN, batches=3, noise_variance=Fraction(1))
    assert small.most_patients == 6

    def moved(plan: StepPlan) -> float:
        whole = private_sum(adapter.module, patients, plan, secret(), 1).vector
        rest = private_sum(adapter.module, without(patients, "patient-0"), plan, secret(), 1).vector
        return float(np.linalg.norm(whole - rest)) / plan.grid

    enough = batches_needed(20, PLAN.sampling_rate, PLAN.most_records, PLAN.physical_batch)
    assert moved(small) > 1.3
    assert moved(replace(small, batches=enough)) <= 1 + 1e-9


def test_a_private_denominator_shows_in_the_noise() -> None:
    """The mean over 10 or 9 drawn patients: noise of another scale in every coordinate, whatever the gradients are."""
    coordinates, ratio = 45_334, (10 / 9) ** 2
    divergence = coordinates / 2 * (ratio - 1 - math.log(ratio))
    assert divergence > 500, "nats, and so much epsilon: the draw's size can be read off one step"


def test_coins_from_a_stream_taken_in_order_change_for_everybody_and_keyed_ones_do_not() -> None:
    patients = {f"patient-{number}": [number] for number in range(400)}
    gone = next(iter(patients))
    rest = {name: rows for name, rows in patients.items() if name != gone}

    def in_order(rows: dict[str, list[int]]) -> set[str]:
        stream = np.random.default_rng(5)
        return {name for name in rows if stream.random() < 0.3}

    changed = in_order(patients) ^ in_order(rest)
    assert len(changed - {gone}) > 100, "every one of them moves the sum by up to C"
    keyed = [{entry.patient for entry in draw_patients(rows, 0.3, 1, secret(), 1)} for rows in (patients, rest)]
    assert keyed[0] - {gone} == keyed[1]


# Every coordinate counts


def test_an_uncounted_coordinate_of_norm_c_turns_epsilon_three_into_seven() -> None:
    """Two vectors of norm C each under noise for one: together one of norm C times the root of 2."""
    assert epsilon(RATE, NOISE, STEPS, DELTA) <= 3.0
    assert 7.1 < epsilon(RATE, NOISE / math.sqrt(2), STEPS, DELTA) < 7.25


def test_what_leaves_has_the_trained_coordinates_and_one_norm_over_all_of_them(adapter: AdapterModel) -> None:
    patients = make_tiny_patients(8)
    assert private_sum(adapter.module, patients, PLAN, secret(), 1).vector.shape == (adapter.dimension,)
    gradient, indicator = np.full(100, 1.0), np.array([1.0])
    apart = [clipped_integers(part, 1.0, GRID) for part in (gradient, indicator)]
    assert sum(square_sum(part) for part in apart if part is not None) > 1.99 * GRID**2
    together = clipped_integers(np.concatenate([gradient, indicator]), 1.0, GRID)
    assert together is not None
    assert square_sum(together) <= GRID**2


def test_gradients_taken_by_both_paths_weigh_fillers_with_nothing(adapter: AdapterModel) -> None:
    parameters = trained_parameters(adapter.module)
    inputs, labels = rows_of(mixed_lengths(3), range(3))
    weights = torch.tensor([1.0, 0.0, 0.0])
    buffer = gradient_buffer(parameters, 3)
    with evaluation(adapter.module):
        single = single_gradients(adapter.module, parameters, inputs, labels, weights, buffer).copy()
    with per_sample_gradients(adapter.module):
        batched = batch_gradients(adapter.module, parameters, inputs, labels, weights, buffer)
    for found in (single, batched):
        assert found[0].any()
        assert not found[1:].any()
