"""The study: what is trained, on which task, how privately, by whom. Immutable, with one canonical digest.

A study is a TOML file that people read and nodes sign. The digest is over the canonical CBOR of its *values*, so that
comments and layout do not matter and nothing else is free: an unknown key is refused, every default is part of what is
signed. No network, no torch. Paths inside are relative to the file.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import cbor2
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from crypto.identity import PublicIdentity
from crypto.kdf import digest
from protocols.encoding import FixedPoint
from protocols.errors import LocalError
from protocols.parameters import CohortRules, OverflowCertificate
from secfed.algorithms import STRATEGIES, Algorithm
from secfed.errors import UserError
from secfed.toml_files import read_toml

HexDigest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelSection(_Section):
    """The base model that is fine-tuned."""

    base: str = Field(min_length=1, max_length=500)
    """A folder relative to the study file, or a hub name."""
    digest: HexDigest
    """Over the base model's files: every node checks it before it loads them."""
    max_length: int = Field(ge=4, le=8192)
    """Tokens per record, padded and cut to exactly this many."""


class TaskSection(_Section):
    """Sequence classification on JSON lines: one record a line, several records a patient."""

    labels: tuple[str, ...] = Field(min_length=2, max_length=10_000)
    patient_column: str = "patient"
    text_column: str = "text"
    label_column: str = "label"

    @model_validator(mode="after")
    def _labels_differ(self) -> TaskSection:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("two labels are the same")
        return self


class LoraSection(_Section):
    """The adapter. `ffa` freezes A at a shared orthonormal start and trains B: averaging is then exact."""

    rank: int = Field(ge=1, le=256)
    alpha: int = Field(ge=1, le=1024)
    targets: tuple[str, ...] = Field(min_length=1)
    """Name endings of the linear layers that get an adapter."""
    layers: tuple[int, ...] | None = None
    """Which transformer layers; all when absent."""
    variant: Literal["ffa", "ab"] = "ffa"


class PrivacySection(_Section):
    """What each patient is promised."""

    mode: Literal["local"] = "local"
    epsilon: float = Field(gt=0, le=100)
    delta: float = Field(gt=0, lt=1)
    sampling_rate: float = Field(gt=0, le=1)
    """q: the chance of every patient to be drawn in a step, the same at every hospital."""
    clip: float = Field(gt=0, le=1e6)
    """C: the largest L2 norm of one patient's gradient."""


class CohortSection(_Section):
    """Who must take part; see `protocols.parameters`."""

    colluders: int = Field(ge=0)
    tolerated_dropouts: int = Field(ge=0)
    minimum: int = Field(ge=2)


class EncodingSection(_Section):
    """Fixed point: an update's elements are cut to [-bound, bound], in steps of 2^-fraction_bits."""

    bound: float = Field(default=0.25, gt=0, le=1024)
    fraction_bits: int = Field(default=18, ge=4, le=40)


class RosterEntry(_Section):
    """One enrolled organisation."""

    name: Name
    identity: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Its Ed25519 public key, checked out of band."""
    patients: int = Field(ge=1, le=10_000_000)
    """Nominal number of patients: a rounded constant. Weights and sampling denominators come from here, never from
    data; nothing about true counts is ever sent."""


class Study(_Section):
    """The whole manifest."""

    format: Literal[1] = 1
    name: Name
    purpose: str = Field(max_length=2000)
    model: ModelSection
    task: TaskSection
    lora: LoraSection
    algorithm: Algorithm
    privacy: PrivacySection
    cohort: CohortSection
    encoding: EncodingSection = EncodingSection()
    roster: tuple[RosterEntry, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits_together(self) -> Study:
        for column in ("name", "identity"):
            values = [getattr(entry, column) for entry in self.roster]
            if len(set(values)) != len(values):
                raise ValueError(f"two nodes of the roster have the same {column}")
        largest = max(entry.patients for entry in self.roster)
        if self.privacy.delta > 1 / (10 * largest):
            raise ValueError(
                f"privacy.delta = {self.privacy.delta:g} is above 1/(10 N) for the largest hospital: "
                f"at most {1 / (10 * largest):.2g}"
            )
        try:
            self.cohort_rules()
            _ = self.overflow_certificate.ring_bits
            FixedPoint(self.encoding.fraction_bits, self.element_limit)
        except LocalError as error:
            raise ValueError(str(error)) from error
        return self

    @cached_property
    def digest(self) -> bytes:
        """The study's 32-byte digest, over the canonical CBOR of all values."""
        return digest("study", cbor2.dumps(self.model_dump(mode="json"), canonical=True))

    @cached_property
    def identities(self) -> tuple[PublicIdentity, ...]:
        """Public identities in roster order."""
        return tuple(PublicIdentity(bytes.fromhex(entry.identity)) for entry in self.roster)

    @property
    def weights(self) -> tuple[int, ...]:
        """Nominal weights in roster order."""
        return tuple(entry.patients for entry in self.roster)

    @property
    def steps(self) -> int:
        """T: private steps over the whole study."""
        return self.algorithm.rounds * self.algorithm.local_steps

    @property
    def element_limit(self) -> int:
        """The largest absolute value of one element in fixed point, before the weight."""
        return int(self.encoding.bound * 2**self.encoding.fraction_bits)

    @property
    def overflow_certificate(self) -> OverflowCertificate:
        """Why the weighted sum cannot wrap, whoever takes part."""
        return OverflowCertificate(len(self.roster), max(self.weights) * self.element_limit)

    def cohort_rules(self, site_minimum: int = 0, site_honest_minimum: int = 2) -> CohortRules:
        """The study's cohort rules, as this site's policy tightens them."""
        return CohortRules(
            roster_size=len(self.roster),
            colluders=self.cohort.colluders,
            tolerated_dropouts=self.cohort.tolerated_dropouts,
            minimum=self.cohort.minimum,
            site_minimum=site_minimum,
            site_honest_minimum=site_honest_minimum,
        )

    def index_of(self, name: str) -> int:
        """Roster index of a node. Raises KeyError for a name that is not enrolled."""
        for index, entry in enumerate(self.roster):
            if entry.name == name:
                return index
        raise KeyError(name)


def load_study(path: Path) -> Study:
    """Read and check a study.

    Raises:
        UserError: the file is missing, too large, no TOML, or says something that a study does not say.
    """
    try:
        values = read_toml(path)
    except OSError as error:
        raise UserError(
            f"the study file {path} cannot be read ({error.strerror})",
            "Give the path of a study.toml; `secfed demo` writes one that you can copy",
        ) from error
    try:
        return Study.model_validate_json(_as_json(values))
    except ValidationError as error:
        raise UserError(f"{path}: {first_problem(error)}", "Mend it in the study file; nothing was started") from error


def _as_json(values: object) -> str:
    import json

    try:
        return json.dumps(values, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"the study holds a value that no study has ({error})", "Use text, numbers, lists and tables only"
        ) from error


def first_problem(error: ValidationError) -> str:
    """Pydantic's first finding as one line, with the count of the others."""
    problems = error.errors()
    first = problems[0]
    path = [str(part) for part in first["loc"]]
    if path[:1] == ["algorithm"] and path[1:2] and path[1] in STRATEGIES:
        del path[1]  # pydantic adds the strategy that was chosen; the file has no such table
    place = ".".join(path) or "the study"
    reason = "this key is unknown" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{place}: {reason}{more}"
