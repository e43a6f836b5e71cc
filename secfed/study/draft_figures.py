"""First values for a study's draft, from what its organiser knows: sites, patients, base model.

They are a starting point: they fit together and keep the promise. Where nothing decides otherwise, they are the demo's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

_EXPECTED = 480
"""Patients in one step, all sites together, as in the demo. With fewer, noise dominates."""
_LARGEST_RATE = 0.5
_TOKENS = 128
"""Tokens per record: a short note. Longer records are cut."""
_TARGETS = (
    ("query", "key", "value", "attention.output.dense"),
    ("q_lin", "k_lin", "v_lin", "out_lin"),
    ("query_proj", "key_proj", "value_proj"),
    ("q_proj", "k_proj", "v_proj", "o_proj"),
)
"""Names of the linear layers around attention, in different families of models."""


@dataclass(frozen=True, slots=True)
class StudyFigures:
    """The values that fill in a study's file."""

    max_length: int = 20
    rank: int = 8
    alpha: int = 1
    targets: tuple[str, ...] = ("query", "key", "value", "attention.output.dense")
    layers: tuple[int, ...] = (3, 4, 5)
    mode: Literal["distributed", "local"] = "distributed"
    """Local mode needs no shared noise, but learns less."""
    steps: int = 40
    """Private steps. In distributed mode each is one round."""
    server_learning_rate: float = 0.12
    tau: float = 0.0003
    local_steps: int = 4
    """Of a round in local mode."""
    local_learning_rate: float = 0.06
    physical_batch: int = 32
    epsilon: float = 8.0
    delta: float = 1e-5
    sampling_rate: float = 0.06
    clip: float = 1.0
    colluders: int = 1
    tolerated_dropouts: int = 1
    minimum: int = 4
    records_per_patient: int = 1
    """Of a drawn patient in a step, in distributed mode."""
    bound: float = 0.5
    """Of an update's elements, in local mode."""
    fraction_bits: int = 18

    @property
    def rounds(self) -> int:
        """Rounds of the study."""
        return self.steps if self.mode == "distributed" else self.steps // self.local_steps


@dataclass(frozen=True, slots=True)
class Known:
    """What the organiser knows."""

    sites: int = 5
    patients: int = 8000
    """Roughly, all sites together."""
    mode: Literal["distributed", "local"] = "distributed"


def figures(known: Known, base: Path | None) -> StudyFigures:
    """Values that fit together for such a study.

    Args:
        known: what its organiser knows.
        base: the base model's folder, checked. The upper half of its layers is adapted.
    """
    colluders = 1
    dropouts = max(0, min(known.sites - (known.sites + colluders) // 2 - 1, max(1, known.sites // 5)))
    settings = StudyFigures(
        mode=known.mode,
        delta=_delta(known.patients),
        sampling_rate=float(f"{min(_LARGEST_RATE, _EXPECTED / known.patients):.1g}"),
        colluders=colluders,
        tolerated_dropouts=dropouts,
        minimum=known.sites - dropouts,
        records_per_patient=4,
        max_length=_TOKENS,
        layers=(),
    )
    return settings if base is None else _for_base(settings, base)


def _delta(patients: int) -> float:
    """A power of ten below 1 / (10 N), with 10 % margin because roster numbers are rounded."""
    return float(f"1e-{math.ceil(math.log10(11 * patients))}")


def _for_base(settings: StudyFigures, base: Path) -> StudyFigures:
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    layers, longest = config.get("num_hidden_layers"), config.get("max_position_embeddings")
    if isinstance(layers, int) and layers > 1:
        settings = replace(settings, layers=tuple(range(layers // 2, layers)))
    if isinstance(longest, int):
        settings = replace(settings, max_length=max(4, min(settings.max_length, longest - 2)))
    return replace(settings, targets=_targets(base) or settings.targets)


def _targets(base: Path) -> tuple[str, ...]:
    """The endings in `_TARGETS` that occur in this model's linear layers; may be empty."""
    from safetensors import safe_open

    names: list[str] = []
    for path in sorted(base.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            names += file.keys()
    return next((found for family in _TARGETS if (found := _found(family, names))), ())


def _found(family: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(ending for ending in family if any(name.endswith(f".{ending}.weight") for name in names))
