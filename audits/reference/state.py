"""Second implementation of the model's state: sections 4 and 8 ("The next state") of protocols/SPEC.md, one number at a
time.

It belongs with `audits.reference.study`. Python's floats are binary64 and each operator is one rounded operation; there
is no numpy, so an error in the first implementation's array code cannot recur here. This module also makes the first
adapter's tensors ("The study").
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Context, Decimal
from struct import pack, unpack
from typing import Any

from audits.reference.notation import KDF, C, H, stream
from audits.reference.study import Study

Layout = Sequence[tuple[str, Sequence[int]]]
EXPONENTIAL = Context(prec=50)


@dataclass(frozen=True, slots=True)
class State:
    """x, and the strategy's memory: m, v, and C if the clip adapts."""

    x: tuple[float, ...]
    m: tuple[float, ...] = ()
    v: tuple[float, ...] = ()
    clip: float | None = None

    def digest(self, layout: Layout) -> bytes:
        names = [[name, list(shape)] for name, shape in layout]
        parts = [pack(f"<{len(self.x)}f", *self.x)]
        parts += [pack(f"<{len(moment)}d", *moment) for moment in (self.m, self.v) if moment]
        parts += [] if self.clip is None else [pack("<d", self.clip)]
        return H("state", C(names), *parts)


def trained_elements(layout: Layout) -> int:
    return sum(math.prod(shape) for _, shape in layout)


def first_state(study: Study, adapter: Sequence[float]) -> State:
    """The state before round 1."""
    algorithm, zeros = study.algorithm, (0.0,) * len(adapter)
    strategy = algorithm["strategy"]
    m = zeros if strategy.startswith("fedopt") else ()
    v = zeros if strategy == "fedopt-adambc" else ()
    if "tau" in algorithm:
        v = (algorithm["tau"] * algorithm["tau"],) * len(adapter)
    return State(tuple(adapter), m, v, study.privacy["clip"] if study.indicator else None)


def next_state(study: Study, state: State, total: Sequence[int], survivors: Sequence[int]) -> State:
    """The state after a sum, lifted, over these survivors."""
    size = len(state.x)
    changes = directions(study, state, total[:size], survivors)
    phi = 0.0 if study.is_local else noise_of_a_direction(study, state, survivors)
    before = zip(state.x, state.m or (0.0,) * size, state.v or (0.0,) * size, changes, strict=True)
    moved = [step(study.algorithm, x, m, v, d, phi) for x, m, v, d in before]
    xs, ms, vs = (tuple(column) for column in zip(*moved, strict=True))
    following = State(xs, ms if state.m else (), vs if state.v else (), state.clip)
    if state.clip is None:
        return following
    return replace(following, clip=next_clip(study, state.clip, total[size], survivors))


def directions(study: Study, state: State, total: Sequence[int], survivors: Sequence[int]) -> list[float]:
    """D, element by element."""
    privacy, weight = study.privacy, float(study.weight(survivors))
    if study.is_local:
        scale = float(2 ** privacy["fraction_bits"]) * weight
        return [float(s) / scale for s in total]
    clip = privacy["clip"] if state.clip is None else state.clip
    factor = clip / (float(study.gradient_grid) * (privacy["sampling_rate"] * weight))
    return [float(s) * (factor if study.of_nodes else -factor) for s in total]


def noise_of_a_direction(study: Study, state: State, survivors: Sequence[int]) -> float:
    """Phi."""
    privacy = study.privacy
    clip = privacy["clip"] if state.clip is None else state.clip
    whole = clip * (float(privacy["grid"]) / float(study.gradient_grid))
    g = privacy["noise_multiplier"] * whole / (privacy["sampling_rate"] * float(study.weight(survivors)))
    return float(g * g * float(len(survivors)) / float(study.fewest_survivors - study.colluders))


def next_clip(study: Study, clip: float, indicators: int, survivors: Sequence[int]) -> float:
    """C' of the next round."""
    privacy, adaptive = study.privacy, study.privacy["adaptive_clip"]
    whole = float(study.indicator) * (privacy["sampling_rate"] * float(study.weight(survivors)))
    kept = min(max((float(indicators) / whole + 1.0) / 2.0, 0.0), 1.0)
    exponent = adaptive["learning_rate"] * (adaptive["quantile"] - kept)
    moved = clip * float(EXPONENTIAL.exp(Decimal(exponent)))
    return float(min(max(moved, privacy["clip"] / 1000.0), privacy["clip"] * 1000.0))


def step(algorithm: dict[str, Any], x: float, m: float, v: float, d: float, phi: float) -> tuple[float, float, float]:
    """One element's next x, m and v. Values that a strategy does not use do not change."""
    strategy = str(algorithm["strategy"])
    if strategy in ("fedavg", "fedprox"):
        return round32(x + d), m, v
    eta, beta1, beta2 = (algorithm.get(name, 0.0) for name in ("server_learning_rate", "beta1", "beta2"))
    if strategy == "fedopt-sgd":
        m = (beta1 * m) + d
        return round32(x + (eta * m)), m, v
    m = (beta1 * m) + ((1.0 - beta1) * d)
    v = SECOND_MOMENTS[strategy](beta2, v, d, phi)
    if strategy == "fedopt-adambc":
        return round32(x + (eta * m / math.sqrt(max(v, algorithm["floor"])))), m, v
    return round32(x + (eta * m / (math.sqrt(v) + algorithm["tau"]))), m, v


def _yogi(beta2: float, v: float, d: float, phi: float) -> float:
    s = (1.0 - beta2) * (d * d)
    return v - s if v > d * d else v + s if v < d * d else v


SECOND_MOMENTS: dict[str, Callable[[float, float, float, float], float]] = {
    "fedopt-adam": lambda beta2, v, d, phi: (beta2 * v) + ((1.0 - beta2) * (d * d)),
    "fedopt-adambc": lambda beta2, v, d, phi: (beta2 * v) + ((1.0 - beta2) * ((d * d) - phi)),
    "fedopt-yogi": _yogi,
    "fedopt-adagrad": lambda beta2, v, d, phi: v + (d * d),
}


def round32(value: float) -> float:
    """The nearest binary32, ties to even."""
    return float(unpack("<f", pack("<f", value))[0])


# --- "The study": the first adapter ---------------------------------------------------------------------------------


def first_adapter_seed(study: Study) -> bytes:
    return H("first adapter", study.digest)


def uniform(seed: bytes, label: str, count: int) -> list[float]:
    """Numbers in [-1, 1)."""
    data = stream(KDF(seed, "public seed", label.encode()), 8 * count)
    words = [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8)]
    return [(word >> 11) * 2.0**-52 - 1.0 for word in words]


def first_a(seed: bytes, name: str, rows: int, columns: int) -> list[float]:
    """A tensor A, row-major: orthonormal rows."""
    numbers = uniform(seed, name, rows * columns)
    vectors = [numbers[r * columns : (r + 1) * columns] for r in range(rows)]
    for i in range(rows):
        for j in range(i):
            dot = math.fsum(a * b for a, b in zip(vectors[i], vectors[j], strict=True))
            vectors[i] = [a - dot * b for a, b in zip(vectors[i], vectors[j], strict=True)]
        norm = math.sqrt(math.fsum(a * a for a in vectors[i]))
        vectors[i] = [a / norm for a in vectors[i]]
    return [round32(a) for row in vectors for a in row]


def first_head(seed: bytes, name: str, shape: Sequence[int]) -> list[float]:
    """A tensor that the base model's files do not hold, row-major."""
    if len(shape) < 2:
        return [1.0 if name.endswith(".weight") else 0.0] * math.prod(shape)
    return [round32(number * 2.0**-5) for number in uniform(seed, name, math.prod(shape))]
