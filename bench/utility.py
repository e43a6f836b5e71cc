"""What privacy costs in accuracy: distributed, local and pooled private training beside training without privacy.

The demo's model, texts and patients. All arms have the same patients, the same number of steps and the same chance q of
a patient to be drawn; the private ones the same epsilon and delta. Each names whom its figure holds against.

- `distributed`: each hospital adds its share of the noise; what is summed here without masks is the sum that the
  protocol gives, whole number by whole number.
- `local`: each hospital trains by itself with all the noise of its own steps, and updates are averaged.
- `pooled`: all patients in one place, one noise. Its adversary sees the model, and the place sees everything.
- `pooled, distributed's noise`: the same with the noise of all shares together, sqrt(n / (t - c)) times as long. If it
  is as good as `distributed`, that factor is all that distribution costs.
- `non_private`: the same steps without clip and noise.

Patients without a place in the padded batches do not occur in any run here; but for the arm `local`, batches that hold
fillers only are left out, because they add nothing but time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crypto.randomness import NoiseSecret
from dp import accounting
from dp.distributed import private_sum, record_gradients
from dp.patients import draw_patients
from dp.sampling import Patients
from dp.step_plan import LocalPlan, StepPlan, batches_needed, noise_share
from dp.training import train_locally
from protocols.parameters import CohortRules
from secfed.demo.workspace import DemoSettings, prepare_demo
from secfed.models.data import read_patients, read_test_set, tokenise
from secfed.models.model import AdapterModel, LoraSettings, load_model, load_tokenizer
from secfed.models.tasks import kind_of
from secfed.rounds.strategies import ModelState, average, move
from secfed.study.algorithms import FedOptAdam
from secfed.study.manifest import load_study

GRID = 1 << 20
EPSILONS = (8.0, 3.0)
SEEDS = (1, 2, 3)
DEMO = DemoSettings()
ADVERSARIES = {
    "distributed": "the aggregator, the public and other hospitals of which at most c collude or add no noise",
    "local": "everybody outside the patient's own site",
    "pooled": "those who see the model; the one place with all patients sees everything",
    "pooled, distributed's noise": "as pooled",
    "non_private": "nobody",
}
"""Against whom each arm's epsilon holds."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Everything that the arms share."""

    model: AdapterModel
    start: NDArray[np.float32]
    everybody: Patients
    test: Patients
    steps: int
    sampling_rate: float


def load(folder: Path, steps: int) -> Workload:
    """The demo's patients, all in one list, and its model with a fresh adapter."""
    prepare_demo(folder)
    kind = kind_of(load_study(folder / "study.toml"))
    records = {}
    for site in sorted((folder / "sites").iterdir()):
        records.update(read_patients(site / "patients.jsonl", kind, site.name))
    lora = LoraSettings(DEMO.rank, DEMO.alpha, DEMO.targets, DEMO.layers, "ffa")
    model = load_model(folder / "model", kind, lora, bytes(32))
    tokenizer = load_tokenizer(folder / "model", model.vocabulary)
    return Workload(
        model,
        model.get_state().copy(),
        tokenise(records, tokenizer, kind),
        tokenise(read_test_set(folder / "test.jsonl", kind), tokenizer, kind),
        steps,
        DEMO.sampling_rate,
    )


def split(everybody: Patients, hospitals: int, seed: int) -> list[Patients]:
    """The same patients at so many hospitals of equal size."""
    names = np.array(sorted(everybody.rows))
    np.random.default_rng(seed).shuffle(names)
    return [
        Patients(everybody.inputs, everybody.labels, {name: everybody.rows[name] for name in part.tolist()})
        for part in np.array_split(names, hospitals)
    ]


def stepwise(work: Workload, change: Callable[[int], NDArray[np.float64]], rate: float) -> float:
    """Adam over the steps' gradients, as the nodes compute it. The accuracy at the end."""
    algorithm = FedOptAdam(rounds=work.steps, server_learning_rate=rate, tau=DEMO.tau)
    size = work.start.shape
    state = ModelState(work.start, (np.zeros(size), np.full(size, algorithm.tau**2)))
    for number in range(1, work.steps + 1):
        work.model.set_state(state.adapter)
        state = move(algorithm, state, change(number))
    return _accuracy(work, state)


def summed(
    work: Workload, hospitals: Sequence[Patients], variance: Fraction, secrets: Sequence[NoiseSecret], number: int
) -> NDArray[np.float64]:
    """The negative mean gradient behind one step's secure sum."""
    total = np.zeros(work.start.size, dtype=np.int64)
    for patients, secret in zip(hospitals, secrets, strict=True):
        drawn = len(draw_patients(patients.rows, work.sampling_rate, 1, secret, number))
        plan = StepPlan(
            sampling_rate=work.sampling_rate,
            clip=DEMO.clip,
            grid=GRID,
            most_records=1,
            physical_batch=DEMO.physical_batch,
            batches=max(1, -(-drawn // DEMO.physical_batch)),
            noise_variance=variance,
        )
        total += private_sum(work.model.module, patients, plan, secret, number).vector
    return total * (-DEMO.clip / (GRID * work.sampling_rate * len(work.everybody)))


def distributed(work: Workload, seed: int, epsilon: float, hospitals: int, rules: CohortRules) -> float:
    """All hospitals of a study in distributed mode."""
    shares = noise_share(_noise(work, epsilon), GRID, rules.fewest_survivors, rules.colluders)
    parts = split(work.everybody, hospitals, seed)
    return stepwise(work, partial(summed, work, parts, shares, _secrets(seed, hospitals)), DEMO.server_learning_rate)


def pooled(work: Workload, seed: int, epsilon: float, factor: Fraction = Fraction(1)) -> float:
    """All patients in one place; `factor` times the variance of its own noise."""
    variance = _noise(work, epsilon) ** 2 * GRID**2 * factor
    change = partial(summed, work, [work.everybody], variance, _secrets(seed, 1))
    return stepwise(work, change, DEMO.server_learning_rate)


def local(work: Workload, seed: int, epsilon: float, hospitals: int) -> float:
    """Ten rounds of four local steps, and the weighted mean."""
    parts, secrets = split(work.everybody, hospitals, seed), _secrets(seed, hospitals)
    state = ModelState(work.start)
    for number in range(1, work.steps // DEMO.local_steps + 1):
        change = np.zeros(work.start.size)
        for patients, secret in zip(parts, secrets, strict=True):
            plan = LocalPlan(
                steps=DEMO.local_steps,
                sampling_rate=work.sampling_rate,
                nominal_patients=len(patients),
                clip=DEMO.clip,
                noise_multiplier=float(_noise(work, epsilon)),
                learning_rate=DEMO.local_learning_rate,
                optimizer="adam",
                physical_batch=DEMO.physical_batch,
                batches=batches_needed(len(patients), work.sampling_rate, 1, DEMO.physical_batch),
            )
            work.model.set_state(state.adapter)
            train_locally(work.model.module, patients, plan, secret, number)
            change += len(patients) / len(work.everybody) * (work.model.get_state() - state.adapter).astype(np.float64)
        state = average(state, change)
    return _accuracy(work, state)


def non_private(work: Workload, seed: int) -> float:
    """The same draws and optimiser, without clip and noise."""
    (secret,) = _secrets(seed, 1)

    def change(number: int) -> NDArray[np.float64]:
        drawn = draw_patients(work.everybody.rows, work.sampling_rate, 1, secret, number)
        batches = -(-len(drawn) // DEMO.physical_batch)
        plan = StepPlan(work.sampling_rate, DEMO.clip, GRID, 1, DEMO.physical_batch, batches, Fraction(1))
        total = np.zeros(work.start.size)
        for at, batch in enumerate(record_gradients(work.model.module, work.everybody, drawn, plan)):
            total += batch[: len(drawn) - at * DEMO.physical_batch].sum(axis=0, dtype=np.float64)
        return -total / (work.sampling_rate * len(work.everybody))

    return stepwise(work, change, DEMO.server_learning_rate)


def _noise(work: Workload, epsilon: float) -> Fraction:
    return Fraction(repr(accounting.calibrate(epsilon, DEMO.delta, work.sampling_rate, work.steps)))


def _secrets(seed: int, count: int) -> list[NoiseSecret]:
    """Fixed ones: a benchmark is to be repeated."""
    return [
        NoiseSecret(lambda size, node=node: np.random.default_rng([seed, node]).bytes(size)) for node in range(count)
    ]


def _accuracy(work: Workload, state: ModelState) -> float:
    work.model.set_state(state.adapter)
    return work.model.measured(work.test)["accuracy"]


def arms(work: Workload, epsilon: float, hospitals: int) -> dict[str, Callable[[int], float]]:
    """The arms at one epsilon, each from a seed to an accuracy."""
    away = hospitals // 5
    rules = CohortRules(hospitals, DEMO.colluders, away, hospitals - away)
    honest = rules.fewest_survivors - rules.colluders
    return {
        "distributed": lambda seed: distributed(work, seed, epsilon, hospitals, rules),
        "local": lambda seed: local(work, seed, epsilon, hospitals),
        "pooled": lambda seed: pooled(work, seed, epsilon),
        "pooled, distributed's noise": lambda seed: pooled(work, seed, epsilon, Fraction(hospitals, honest)),
        "non_private": lambda seed: non_private(work, seed),
    }


def measure(
    work: Workload, epsilon: float, hospitals: int, wanted: Sequence[str], tell: Callable[[str], None]
) -> dict[str, Any]:
    """Every wanted arm at this epsilon over all seeds: mean, and each seed's accuracy."""
    found = {}
    for name, arm in arms(work, epsilon, hospitals).items():
        if name in wanted:
            accuracies = []
            for seed in SEEDS:
                accuracies.append(arm(seed))
                tell(f"epsilon {epsilon:g}, {hospitals} hospitals, {name}, seed {seed}: {accuracies[-1]:.3f}")
            found[name] = {
                "mean": round(statistics.mean(accuracies), 4),
                "seeds": [round(each, 4) for each in accuracies],
            }
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one object for machines; progress goes to standard error")
    parser.add_argument("--hospitals", type=int, default=5, help="they share the same patients; 5 by default")
    parser.add_argument("--epsilon", type=float, nargs="*", default=EPSILONS)
    parser.add_argument("--arms", nargs="*", choices=ADVERSARIES, default=list(ADVERSARIES))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = load(Path(folder) / "demo", DEMO.steps)
        results = {
            f"epsilon_{epsilon:g}": measure(
                work, epsilon, asked.hospitals, asked.arms, lambda line: print(line, file=sys.stderr, flush=True)
            )
            for epsilon in asked.epsilon
        }
    if asked.json:
        print(json.dumps({"hospitals": asked.hospitals, **results, "adversaries": ADVERSARIES}))
        return
    for epsilon, found in results.items():
        for name, each in found.items():
            seeds = ", ".join(f"{accuracy:.3f}" for accuracy in each["seeds"])
            print(f"{epsilon:<12}{name:<30}{each['mean']:.3f}  ({seeds})  against {ADVERSARIES[name]}")


if __name__ == "__main__":
    main()
