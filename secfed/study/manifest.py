"""The study: what is trained, on which task, how privately, by whom. Immutable, with one canonical digest.

A study is a TOML file that people read and nodes sign. The digest is over the canonical CBOR of its *values*. Comments
and layout do not change the digest; everything else does. Unknown keys are refused, and defaults are signed, too. No
network, no torch. Paths in the file are relative to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import cbor2
from pydantic import Field, ValidationError, model_validator

from crypto.identity import PublicIdentity
from crypto.kdf import digest
from dp.delta_limit import check_delta_for
from dp.entries import delta_amount
from protocols.errors import LocalError
from protocols.parameters import CohortRules, OverflowCertificate
from secfed.files.reading import read_at_most
from secfed.files.toml import TOML_BYTES_MAX
from secfed.study.algorithms import Algorithm
from secfed.study.mechanisms import Privacy, mechanism_of
from secfed.study.mechanisms.base import Mechanism
from secfed.study.problems import place_and_reason, read_table
from secfed.study.sections import Section
from secfed.study.tasks import Task

HexDigest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
PATIENTS_MAX = 10_000_000
"""The most patients of one organisation."""
_GIVE_MIN = 5
"""The smallest tolerance of a nominal number, in patients: rounding to the next ten always fits."""


class ModelSection(Section):
    """The base model that is fine-tuned."""

    base: str = Field(min_length=1, max_length=500)
    """A folder relative to the study file, or a hub name."""
    digest: HexDigest
    """Digest of the base model's files: every node checks it before it loads them."""
    max_length: int = Field(ge=4, le=8192)
    """Tokens per record; every record is padded or cut to exactly this length."""


class LoraSection(Section):
    """The adapter. `ffa` freezes A at a shared orthonormal start and trains B: averaging is then exact."""

    rank: int = Field(ge=1, le=256)
    alpha: int = Field(ge=1, le=1024)
    targets: tuple[str, ...] = Field(min_length=1)
    """Name endings of the linear layers that get an adapter."""
    layers: tuple[int, ...] | None = None
    """Which transformer layers; all if absent."""
    variant: Literal["ffa", "ab"] = "ffa"


class CohortSection(Section):
    """Who must take part; see `protocols.parameters`."""

    colluders: int = Field(ge=0)
    tolerated_dropouts: int = Field(ge=0)
    minimum: int = Field(ge=2)


def band_around(nominal: int) -> tuple[int, int]:
    """The smallest and largest true count for a nominal number: within 10 %, or within five if that is more.

    A rounded number says about how many patients there are. With a narrower band a small number would reveal the exact
    count, and one patient more or less would show in whether the site takes part.
    """
    give = max(_GIVE_MIN, nominal // 10)
    return max(1, nominal - give), nominal + give


class RosterEntry(Section):
    """One enrolled organisation."""

    name: Name
    identity: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Its Ed25519 public key, checked out of band."""
    patients: int = Field(ge=1, le=PATIENTS_MAX)
    """Nominal number of patients, or of records where the unit is one: a rounded constant; 1 where the unit is the
    node. Weights and sampling denominators come from here, never from data; nothing about true counts is ever sent."""

    @property
    def patients_band(self) -> tuple[int, int]:
        """The smallest and largest true count of this node: see `band_around`. Batches and the ring's width are planned
        for the largest."""
        return band_around(self.patients)


class Study(Section):
    """The whole manifest."""

    format: Literal[1] = 1
    name: Name
    purpose: str = Field(max_length=2000)
    model: ModelSection
    task: Task
    lora: LoraSection
    algorithm: Algorithm
    privacy: Privacy
    cohort: CohortSection
    roster: tuple[RosterEntry, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits_together(self) -> Study:
        apart = (
            self._check_roster,
            self._check_sizes,
            lambda: self.task.check_length(self.model.max_length),
            lambda: self.mechanism.check_fits(self.algorithm),
        )
        found = [problem for check in (*apart, self.cohort_rules) if (problem := _problem(check))]
        if not found:  # the remaining checks need values that fit together
            found = [
                problem
                for check in (lambda: self.overflow_certificate.ring_bits, self.mechanism.check_noise)
                if (problem := _problem(check))
            ][:1]
        if found:
            raise ValueError("; ".join(found))
        return self

    def _check_roster(self) -> None:
        """Check that no name and no identity is on the roster twice."""
        for column in ("name", "identity"):
            values = [getattr(entry, column) for entry in self.roster]
            if len(set(values)) != len(values):
                raise ValueError(f"two nodes of the roster have the same {column}")

    def _check_sizes(self) -> None:
        """Check delta and the nominal numbers: delta is at most 1/(10 N) for the N units of the whole roster."""
        self.mechanism.check_roster()
        who = f"the {self.privacy.protects.value}s of the whole roster together"
        check_delta_for(delta_amount(self.privacy.delta), sum(self.weights), who)

    def changed(self, **changes: Any) -> Study:
        """This study with other values, checked as a whole, with the smallest noise that keeps its promise.

        `study.changed(privacy={"epsilon": 3})` changes one key of a table, `roster=[...]` replaces a whole list, and
        `None` removes a key, so its default applies. If `strategy` or `mode` changes, keys that the new kind of table
        does not have are dropped. The noise stays the same if nothing changes that it depends on, or if the change
        itself gives a `noise_multiplier`: `secfed.prepare` refuses one that is too small.

        Args:
            changes: the new values, by table or key.

        Raises:
            UserError: lists everything that is wrong, or says that no noise keeps the promise.
        """
        from secfed.study.changes import changed  # imports this module

        return changed(self, changes)

    @cached_property
    def digest(self) -> bytes:
        """The study's 32-byte digest, over the canonical CBOR of all values."""
        return digest("study", cbor2.dumps(self.model_dump(mode="json"), canonical=True))

    @cached_property
    def mechanism(self) -> Mechanism[Any]:
        """How the study is kept private: every figure and text that depends on its mode."""
        return mechanism_of(self)

    @cached_property
    def identities(self) -> tuple[PublicIdentity, ...]:
        """Public identities in roster order."""
        return tuple(PublicIdentity(bytes.fromhex(entry.identity)) for entry in self.roster)

    @property
    def weights(self) -> tuple[int, ...]:
        """Nominal weights in roster order."""
        return tuple(entry.patients for entry in self.roster)

    def expected_units(self, survivors: Sequence[int]) -> float:
        """q N: the mean number of units drawn in a step at these nodes, by their nominal numbers."""
        return self.privacy.sampling_rate * float(sum(self.weights[node] for node in survivors))

    @property
    def party(self) -> str:
        """What texts call a member of the roster: a site, or a node if the unit of privacy is the node."""
        return self.mechanism.party

    @property
    def steps_per_round(self) -> int:
        """Noised sums in one round. In distributed mode it is one, whatever the number of plain local steps."""
        return self.mechanism.steps_per_round

    @property
    def steps(self) -> int:
        """T: noised sums over the whole study."""
        return self.algorithm.rounds * self.steps_per_round

    @property
    def magnitude(self) -> int:
        """The largest absolute value of an element that a node may upload."""
        return self.mechanism.largest_input + self.mechanism.noise_tail

    @property
    def overflow_certificate(self) -> OverflowCertificate:
        """Why the sum cannot wrap, whoever takes part."""
        size, mechanism = len(self.roster), self.mechanism
        return OverflowCertificate(size, mechanism.largest_input, size * mechanism.noise_tail)

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


def _problem(check: Callable[[], object]) -> str:
    """The problem that a check reports; empty if there is none."""
    try:
        check()
    except (LocalError, ValueError) as error:  # an OutOfRange is one, too
        return str(error)
    return ""


def load_study(path: Path) -> Study:
    """Read and check a study.

    Raises:
        UserError: the file is missing, too large, not TOML, or not a valid study.
    """
    return read_study_file(path)[0]


def read_study_file(path: Path) -> tuple[Study, bytes]:
    """As `load_study`, with the very bytes that it was read from: people read and sign those, comments included."""
    step = "Give the path of a study.toml; `secfed study init` writes one to start from"
    data = read_at_most(path, TOML_BYTES_MAX, "the study file", step)
    return read_table(Study, path, data), data


def first_problem(error: ValidationError) -> str:
    """Pydantic's first finding as one line, with the number of others."""
    problems = error.errors()
    place, reason = place_and_reason(problems[0])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{'.'.join(map(str, place)) or 'the study'}: {reason}{more}"
