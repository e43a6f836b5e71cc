"""What the tests of the guards share: a plan, models to put a harm into, and the textbook's clipped sum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import torch
from peft import LoraConfig, TaskType, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from crypto.randomness import NoiseSecret
from dp.distributed import RecordLosses, record_gradients, trained_parameters
from dp.guards import Verdict, check_step, made_up_patients
from dp.patients import draw_patients, patient_vectors
from dp.sampling import Patients
from dp.step_plan import StepPlan
from dp.training import evaluation, record_losses
from tests.tiny import LABELS, LENGTH, SPECIAL, WORDS, make_tiny_patients, only_patients

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
    return only_patients(patients, set(patients.rows) - {gone})


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


def behind_a_layer(something: Callable[[Tensor], Tensor]) -> nn.Module:
    """Something that what is trained feels in its own gradient."""

    class Something(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return something(values)

    return nn.Sequential(nn.Linear(16, 16), Something())


def load(base: Path) -> nn.Module:
    """The tiny base with a head of its own, and no adapter."""
    model: nn.Module = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=len(LABELS), dtype=torch.float32
    )
    return model


def adapted(base: Path, **options: object) -> nn.Module:
    return get_peft_model(load(base), LoraConfig(task_type=TaskType.SEQ_CLS, r=2, lora_alpha=8, **options))


def patient_gradients(model: nn.Module, patients: Patients) -> Tensor:
    """Plain autograd, a patient at a time."""
    parameters = [parameter for _, parameter in trained_parameters(model)]
    found = []
    with evaluation(model):
        for rows in patients.rows.values():
            loss = record_losses(model, *rows_of(patients, rows)).sum()
            found.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)]))
    return torch.stack(found)
