"""What privacy adds to one step of a hospital in distributed mode, beside the plain LoRA step on the same batches.

The demo's model, adapter and figures, on made-up tokens, on one core. More patients are drawn than the K physical
batches hold, so that every place is filled: a step has no more to group and to clip than this. Everything runs in one
process, in turn, several times. A ratio is the median of those within one turn, which other work on the machine
disturbs less than the times.

- `plain`: forward and backward passes of the mean loss over K batches, and the gradient as a flat vector.
- `hooks`: the same passes with per-sample gradients from Opacus's hooks, which are thrown away.
- `whole`: `dp.distributed.private_sum`, for patients with one record in a step and with four.
- the parts of it that are neither passes nor hooks: drawing patients and records; putting a batch's gradients side by
  side; adding them up by patient, clipping, rounding and checking, and the sum (of which clipping is also shown by
  itself); noise. Together they are the `overhead`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crypto.randomness import NoiseSecret
from dp.distributed import (
    draw_noise,
    flat_gradients,
    gradient_buffer,
    private_sum,
    record_gradients,
    trained_parameters,
)
from dp.patients import Drawn, clipped_integers, draw_patients, patient_vectors
from dp.sampling import Patients
from dp.step_plan import StepPlan, noise_share
from dp.training import per_sample_gradients, record_losses
from secfed.demo.workspace import DemoSettings, _packaged_model
from secfed.models.model import AdapterModel, LoraSettings, load_model
from secfed.models.tasks.classify import Classify
from secfed.study.tasks import ClassifyTask

REPEATS = 9
BATCHES = 6
RECORDS = (1, 4)
"""Records of one patient in a step."""
LABELS = 22
DEMO = DemoSettings()
PLAN = StepPlan(
    sampling_rate=DEMO.sampling_rate,
    clip=DEMO.clip,
    grid=1 << 20,
    most_records=1,
    physical_batch=DEMO.physical_batch,
    batches=BATCHES,
    noise_variance=noise_share(Fraction("0.6422"), 1 << 20, quorum=4, colluders=1),
)
PATIENTS = round(1.5 * PLAN.most_patients / PLAN.sampling_rate)


def _kind() -> Classify:
    return Classify(ClassifyTask(labels=tuple(f"label {number}" for number in range(LABELS))), DEMO.max_length)


def demo_model() -> AdapterModel:
    """The demo's MiniLM with the demo's adapter."""
    lora = LoraSettings(rank=DEMO.rank, alpha=DEMO.alpha, targets=DEMO.targets, layers=DEMO.layers, variant="ffa")
    model = load_model(_packaged_model(), _kind(), lora, bytes(32))
    # A fresh adapter changes nothing, and a gradient of zero would be no work to clip.
    state = model.get_state()
    model.set_state(state + np.linspace(-0.01, 0.01, state.size, dtype=np.float32))
    return model


def made_up_patients() -> Patients:
    """Random words in sentences of different lengths, filled up to the demo's."""
    generator = torch.Generator().manual_seed(1)
    records = PATIENTS * max(RECORDS)
    tokens = torch.randint(1000, 30000, (records, DEMO.max_length), generator=generator)
    lengths = torch.randint(5, DEMO.max_length + 1, (records, 1), generator=generator)
    mask = (torch.arange(DEMO.max_length) < lengths).long()
    labels = torch.randint(0, LABELS, (records,), generator=generator)
    rows = {f"patient-{at}": range(at * max(RECORDS), (at + 1) * max(RECORDS)) for at in range(PATIENTS)}
    return Patients({"input_ids": tokens * mask, "attention_mask": mask}, labels, rows)


def plain_step(model: AdapterModel, patients: Patients) -> NDArray[np.float32]:
    """Forward and backward passes of K batches, and their mean gradient as a flat vector."""
    parameters = trained_parameters(model.module)
    for inputs, labels in batches_of(patients):
        torch.autograd.backward(record_losses(model.module, inputs, labels).mean() / BATCHES)
    parts = [parameter.grad.flatten() for _, parameter in parameters if parameter.grad is not None]
    for _, parameter in parameters:
        parameter.grad = None
    flat: NDArray[np.float32] = torch.cat(parts).numpy()
    return flat


def hooked_step(model: AdapterModel, patients: Patients) -> None:
    """The same passes with per-sample gradients, and nothing done with them."""
    parameters = trained_parameters(model.module)
    with per_sample_gradients(model.module):
        for inputs, labels in batches_of(patients):
            torch.autograd.backward(record_losses(model.module, inputs, labels).sum())
            for _, parameter in parameters:
                parameter.__dict__["grad_sample"] = None
                parameter.grad = None


def batches_of(patients: Patients) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """K physical batches of the first records."""
    for start in range(0, BATCHES * PLAN.physical_batch, PLAN.physical_batch):
        rows = slice(start, start + PLAN.physical_batch)
        yield {name: tensor[rows] for name, tensor in patients.inputs.items()}, patients.labels[rows]


def actions(model: AdapterModel, patients: Patients) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    module, secret = model.module, NoiseSecret()
    parameters = trained_parameters(module)
    samples = [torch.randn((PLAN.physical_batch, *parameter.shape)) for _, parameter in parameters]
    buffer = gradient_buffer(parameters, PLAN.physical_batch)

    def side_by_side() -> None:
        for _ in range(BATCHES):
            for (_, parameter), sample in zip(parameters, samples, strict=True):
                parameter.__dict__["grad_sample"] = sample
            flat_gradients(parameters, buffer)

    def summed(drawn: Sequence[Drawn], batches: Sequence[NDArray[np.float32]]) -> None:
        total = np.zeros(model.dimension, dtype=np.int64)
        for vector in patient_vectors(drawn, batches, total.size, PLAN.clip, PLAN.grid):
            if vector is not None:
                total += vector

    def clipped(gradients: NDArray[np.float64]) -> None:
        for gradient in gradients:
            clipped_integers(gradient, PLAN.clip, PLAN.grid)

    found: dict[str, Callable[[], object]] = {
        "plain": partial(plain_step, model, patients),
        "hooks": partial(hooked_step, model, patients),
        "side by side": side_by_side,
        "noise": partial(draw_noise, secret, 1, model.dimension, PLAN.noise_variance),
    }
    for most in RECORDS:
        plan = replace(PLAN, most_records=most)
        drawing = partial(draw_patients, patients.rows, plan.sampling_rate, most, secret, 1)
        drawn = drawing()[: plan.most_patients]
        batches = [batch.copy() for batch in record_gradients(module, patients, drawn, plan)]
        sums = np.concatenate(batches).reshape(-1, most, model.dimension).sum(axis=1, dtype=np.float64)
        found |= {
            f"whole, G = {most}": partial(private_sum, module, patients, plan, secret, 1),
            f"drawing, G = {most}": drawing,
            f"grouping and clipping, G = {most}": partial(summed, drawn, batches),
            f"clipping, G = {most}": partial(clipped, sums),
        }
    return found


def seconds(action: Callable[[], object]) -> tuple[float, float]:
    """CPU time and wall-clock time of one run."""
    cpu, wall = time.process_time(), time.perf_counter()
    action()
    return time.process_time() - cpu, time.perf_counter() - wall


def measure() -> dict[str, dict[str, float]]:
    """For each action: milliseconds of CPU time and by the clock, and their ratios to the plain step's."""
    torch.set_num_threads(1)
    timed = actions(demo_model(), made_up_patients())
    turns = [{name: seconds(action) for name, action in timed.items()} for _ in range(REPEATS + 1)][1:]
    for turn in turns:
        for most in RECORDS:
            parts = ["side by side", "noise", f"drawing, G = {most}", f"grouping and clipping, G = {most}"]
            turn[f"overhead, G = {most}"] = (sum(turn[part][0] for part in parts), sum(turn[part][1] for part in parts))
    return {
        name: {
            "cpu_ms": 1e3 * statistics.median(turn[name][0] for turn in turns),
            "wall_ms": 1e3 * statistics.median(turn[name][1] for turn in turns),
            "cpu_over_plain": statistics.median(turn[name][0] / turn["plain"][0] for turn in turns),
            "wall_over_plain": statistics.median(turn[name][1] / turn["plain"][1] for turn in turns),
        }
        for name in turns[0]
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="the same for machines")
    asked = parser.parse_args()
    results = measure()
    if asked.json:
        print(json.dumps(results))
        return
    print(f"K = {BATCHES} batches of {PLAN.physical_batch} records, {PATIENTS} patients, {REPEATS} turns")
    print(f"{'':<30} {'CPU ms':>9} {'clock ms':>9} {'CPU / plain':>12} {'clock / plain':>14}")
    for name, row in results.items():
        print(
            f"{name:<30} {row['cpu_ms']:9.1f} {row['wall_ms']:9.1f} "
            f"{row['cpu_over_plain']:12.4f} {row['wall_over_plain']:14.4f}"
        )


if __name__ == "__main__":
    main()
