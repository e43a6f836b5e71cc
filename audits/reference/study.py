"""Second implementation of a study: "The study" and section 3 of protocols/SPEC.md, from the file's values to a round's
figures.

It belongs with `audits.reference.machines`: no code of `secfed` or `dp`, no numpy, plain integers and decimals. It does
not refuse illegal studies (the party that signs one does). From a legal study it derives what every party must derive
identically: the digest, the weights, the bound B on an element, the ring, the grid and the share of the noise.
"""

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from functools import cached_property
from math import ceil, isqrt
from typing import Any

from audits.reference.machines import Round
from audits.reference.notation import C, H, Message

Keys = Mapping[str, tuple[Any, Any]]  # name -> its type, and its value if the file leaves it out
REQUIRED = object()
DIGITS = Context(prec=50)
LOCAL_TRAINING: Keys = {"steps": (int, REQUIRED), "optimizer": (str, "adam"), "learning_rate": (float, REQUIRED)}
SERVER: Keys = {"server_learning_rate": (float, REQUIRED), "beta1": (float, 0.9)}
TAU: Keys = {"tau": (float, 1e-3)}
BETA2: Keys = {"beta2": (float, 0.99)}
STRATEGIES: Mapping[str, Keys] = {
    "fedavg": {},
    "fedprox": {"mu": (float, REQUIRED)},
    "fedopt-sgd": SERVER,
    "fedopt-adam": {**SERVER, **TAU, **BETA2},
    "fedopt-adambc": {**SERVER, **BETA2, "floor": (float, REQUIRED)},
    "fedopt-yogi": {**SERVER, **TAU, **BETA2},
    "fedopt-adagrad": {**SERVER, **TAU},
}
PROMISE: Keys = dict.fromkeys(("epsilon", "delta", "noise_multiplier", "sampling_rate", "clip"), (float, REQUIRED))
ADAPTIVE_CLIP: Keys = {"quantile": (float, 0.5), "learning_rate": (float, 0.2), "indicator": (float, 0.1)}
MODES: Mapping[str, Keys] = {
    "local": {"bound": (float, 0.25), "fraction_bits": (int, 18)},
    "distributed": {
        "unit": (str, "patient"),
        "records_per_patient": (int, 4),
        "grid": (int, 2**20),
        "adaptive_clip": (ADAPTIVE_CLIP, None),
    },
}
PLAIN: Mapping[str, Keys] = {
    "model": {"base": (str, REQUIRED), "digest": (str, REQUIRED), "max_length": (int, REQUIRED)},
    "lora": {
        "rank": (int, REQUIRED),
        "alpha": (int, REQUIRED),
        "targets": (list, REQUIRED),
        "layers": (list, None),
        "variant": (str, "ffa"),
    },
    "cohort": dict.fromkeys(("colluders", "tolerated_dropouts", "minimum"), (int, REQUIRED)),
}
TASKS: Mapping[str, Keys] = {
    "classify": {"labels": (list, REQUIRED), "text_column": (str, "text"), "label_column": (str, "label")},
    "tag": {"labels": (list, REQUIRED), "words_column": (str, "words"), "labels_column": (str, "labels")},
    "generate": {
        "prompt": (str, REQUIRED),
        "answer": (str, REQUIRED),
        "answer_tokens": (int, REQUIRED),
        "template": (str, "plain"),
    },
}
ENTRY: Keys = {"name": (str, REQUIRED), "identity": (str, REQUIRED), "patients": (int, REQUIRED)}


def complete(values: Message, keys: Keys) -> Message:
    """A table with every key, each of its type. Raises KeyError for a key that is missing or that no study has."""
    unknown = set(values) - set(keys)
    if unknown:
        raise KeyError(f"unknown: {sorted(unknown)}")
    found = {}
    for name, (kind, default) in keys.items():
        value = values.get(name, default)
        if value is REQUIRED:
            raise KeyError(name)
        if value is not None and isinstance(kind, dict):
            value = complete(value, kind)
        found[name] = float(value) if kind is float and value is not None else value
    return found


def filled_in(given: Message) -> Message:
    """All values of a study: those in its file, and the default for every key that it leaves out."""
    unknown = set(given) - {"format", "name", "purpose", "task", "algorithm", "privacy", "roster", *PLAIN}
    if unknown:
        raise KeyError(f"unknown: {sorted(unknown)}")
    values = {"format": given.get("format", 1), "name": given["name"], "purpose": given["purpose"]}
    values |= {name: complete(given[name], keys) for name, keys in PLAIN.items()}
    task, algorithm, privacy = dict(given["task"]), dict(given["algorithm"]), dict(given["privacy"])
    kind = task.pop("kind", "classify")
    values["task"] = complete(task, {"patient_column": (str, "patient"), **TASKS[kind]})
    if kind != "classify":  # leaving the key out says so
        values["task"]["kind"] = kind
    strategy, mode = algorithm.setdefault("strategy", "fedavg"), privacy.setdefault("mode", "distributed")
    if privacy.get("unit") in ("record", "node"):
        privacy["records_per_patient"] = 1
    if privacy.get("unit") == "node":
        privacy.setdefault("sampling_rate", 1.0)
    every_strategy: Keys = {
        "strategy": (str, REQUIRED),
        "rounds": (int, REQUIRED),
        "local": (LOCAL_TRAINING, None),
        "physical_batch": (int, 32),
    }
    values["algorithm"] = complete(algorithm, {**every_strategy, **STRATEGIES[strategy]})
    values["privacy"] = complete(privacy, {"mode": (str, REQUIRED), **PROMISE, **MODES[mode]})
    return values | {"roster": [complete(entry, ENTRY) for entry in given["roster"]]}


@dataclass(frozen=True)
class Study:
    """A study's values, complete, and what follows from them."""

    values: Message

    @classmethod
    def read(cls, file: bytes) -> "Study":
        """The study in a file."""
        return cls(filled_in(tomllib.loads(file.decode())))

    @cached_property
    def digest(self) -> bytes:
        return H("study", C(self.values))

    def approved_bytes(self, file: bytes) -> tuple[bytes, bytes]:
        """The content that a node signs as approval, under the label "study approval"."""
        return self.digest, hashlib.sha256(file).digest()

    @property
    def privacy(self) -> Message:
        return dict(self.values["privacy"])

    @property
    def algorithm(self) -> Message:
        return dict(self.values["algorithm"])

    @property
    def roster(self) -> tuple[bytes, ...]:
        return tuple(bytes.fromhex(entry["identity"]) for entry in self.values["roster"])

    @property
    def base_model(self) -> bytes:
        return bytes.fromhex(self.values["model"]["digest"].removeprefix("sha256:"))

    @property
    def rounds(self) -> int:
        return int(self.values["algorithm"]["rounds"])

    @property
    def colluders(self) -> int:
        return int(self.values["cohort"]["colluders"])

    @property
    def is_local(self) -> bool:
        return bool(self.privacy["mode"] == "local")

    @property
    def of_nodes(self) -> bool:
        """Whether the unit of privacy is the node."""
        return self.privacy.get("unit") == "node"

    def weight(self, survivors: Sequence[int]) -> int:
        """W: the survivors' nominal weights together."""
        return sum(int(self.values["roster"][u]["patients"]) for u in survivors)

    @property
    def fewest_survivors(self) -> int:
        """t*."""
        size, minimum = len(self.roster), int(self.values["cohort"]["minimum"])
        return max((size + self.colluders) // 2 + 1, minimum, self.colluders + 2)

    @property
    def noise_variance(self) -> Fraction:
        """s^2 of one node's share, in steps of the grid. The decimal is the shortest that gives the same binary64."""
        sigma = Fraction(repr(self.privacy["noise_multiplier"]))
        return sigma**2 * int(self.privacy["grid"]) ** 2 / (self.fewest_survivors - self.colluders)

    @property
    def indicator(self) -> int:
        """I: 0 where the clip does not adapt."""
        adaptive = self.privacy.get("adaptive_clip")
        return 0 if adaptive is None else int(Fraction(repr(adaptive["indicator"])) * self.privacy["grid"])

    @property
    def gradient_grid(self) -> int:
        """grid_C."""
        return isqrt(int(self.privacy["grid"]) ** 2 - self.indicator**2)

    @cached_property
    def largest_input(self) -> int:
        """M."""
        privacy = self.privacy
        if self.is_local:
            limit = int(Fraction(privacy["bound"]) * 2 ** privacy["fraction_bits"])
            return limit * max(self.weight([u]) for u in range(len(self.roster)))
        if self.of_nodes:
            return int(privacy["grid"])
        most = max(self._most_patients(self.weight([u])) for u in range(len(self.roster)))
        return most * int(privacy["grid"])

    @cached_property
    def noise_tail(self) -> int:
        """tail."""
        if self.is_local:
            return 0
        bits = (len(self.roster) * self.rounds * 2**28).bit_length()
        return isqrt(ceil(Fraction(7, 5) * self.noise_variance * (41 + bits))) + 1

    @property
    def bound(self) -> int:
        """B."""
        return self.largest_input + self.noise_tail

    def dimension(self, trained: int) -> int:
        """D, from the number of trained elements."""
        return trained + (1 if self.indicator else 0)

    def round(self, number: int, predecessor: bytes, state: bytes, trained: int) -> Round:
        """The values that study and chain fix for a round."""
        cohort = self.values["cohort"]
        return Round(
            roster=self.roster,
            dropouts=cohort["tolerated_dropouts"],
            colluders=cohort["colluders"],
            smallest_cohort=cohort["minimum"],
            largest_element=self.bound,
            study=self.digest,
            round_number=number,
            predecessor=predecessor,
            base_model=self.base_model,
            state=state,
            dimension=self.dimension(trained),
        )

    def _most_patients(self, nominal: int) -> int:
        """The most patients whose gradients one node's K batches hold."""
        most, q = nominal + max(5, nominal // 10), Decimal(self.privacy["sampling_rate"])
        enough = DIGITS.multiply(40, DIGITS.ln(2))
        low, high = ceil(Fraction(self.privacy["sampling_rate"]) * most), most
        while low < high:  # the exponent grows with k
            k = (low + high) // 2
            low, high = (low, k) if _exponent(k, most, q) >= enough else (k + 1, high)
        records, batch = int(self.privacy["records_per_patient"]), int(self.algorithm["physical_batch"])
        batches = max(1, ceil(Fraction(min(low + 1, most) * records, batch)))
        return batches * batch // records


def _exponent(k: int, n: int, q: Decimal) -> Decimal:
    """n KL(k / n, q)."""
    some = DIGITS.multiply(k, DIGITS.ln(DIGITS.divide(k, DIGITS.multiply(n, q)))) if k else Decimal(0)
    rest = DIGITS.multiply(n, DIGITS.subtract(1, q))
    others = DIGITS.multiply(n - k, DIGITS.ln(DIGITS.divide(n - k, rest))) if k < n else Decimal(0)
    return DIGITS.add(some, others)


def model_digest(files: Mapping[str, bytes]) -> str:
    """The digest of a base model, from its files by name."""
    state = hashlib.sha256(b"secfed model files v1\0")
    for name in sorted(files, key=str.encode):
        for part in (name.encode(), files[name]):
            state.update(len(part).to_bytes(8, "big") + part)
    return f"sha256:{state.hexdigest()}"
