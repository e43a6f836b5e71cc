"""The texts that tell people how a study is kept private: on screen before a run, and in the report.

These are the defaults, for sites and their patients. A mode overrides what differs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Generic, Protocol, TypeAlias, TypeVar

from dp.delta_terms import DeltaTerms
from dp.events import Unit
from dp.step_plan import OVERFLOW_BITS
from secfed.files.figures import rounded_up
from secfed.study.privacy import PrivacyTable
from secfed.study.vouchers import Statement, not_said

if TYPE_CHECKING:
    from secfed.study.manifest import Study

Table = TypeVar("Table", bound=PrivacyTable)
Row: TypeAlias = tuple[str, str, str, str]
"""A row of the report's table of parameters: name, symbol, value, meaning."""
OVERFLOW = "steps in which more are drawn than the padded batches hold"


class Costs(Protocol):
    """Figures of the report (`secfed.reports.risk`) that some words need."""

    @property
    def epsilon_replace_one(self) -> float:
        """For exchanging one unit's records for others."""

    @property
    def epsilon_at_hospitals(self) -> tuple[tuple[int, float], ...]:
        """(k, epsilon) for a patient at k sites."""


class Words(ABC, Generic[Table]):
    """The texts of a mode. Its figures are in `secfed.study.mechanisms.base.Mechanism`."""

    table: ClassVar[type[PrivacyTable]]
    """The `[privacy]` table that selects this mode."""
    units: ClassVar[frozenset[Unit]]
    """The units of privacy that this mode protects."""
    party: ClassVar[str] = "site"
    """What texts call a member of the roster."""

    def __init__(self, study: Study, privacy: Table) -> None:
        """
        Args:
            study: gives all figures.
            privacy: the study's privacy table.
        """
        self.study = study
        self.privacy = privacy

    @classmethod
    def takes(cls, privacy: PrivacyTable) -> bool:
        """Whether a study with this table is kept private in this way."""
        return type(privacy) is cls.table and privacy.protects in cls.units

    @property
    def unit(self) -> str:
        """The unit of privacy, in a word."""
        return self.privacy.protects.value

    @property
    def by_record(self) -> bool:
        """Whether each record is a unit of its own."""
        return self.privacy.protects is Unit.RECORD

    # Words on a screen, before anything runs.

    @property
    @abstractmethod
    def against_in_short(self) -> str:
        """Against whom the figure holds in a federation, in a few words."""

    @property
    @abstractmethod
    def noise_in_short(self) -> str:
        """Who adds how much noise."""

    @property
    def work_in_short(self) -> tuple[str, str]:
        """A round's steps and their bounds: a name and its text."""
        sampled = f"q = {self.privacy.sampling_rate:g} in each of T = {self.study.steps} private steps"
        return "sampling", f"{sampled}, {self.clip_in_short}"

    @property
    def clip_in_short(self) -> str:
        """C, and whether it adapts."""
        return f"clip C = {self.privacy.clip:g}"

    # Words of the report: its parameters (`secfed.reports.mechanism`).

    @property
    def longest(self) -> str:
        """What the clipping norm bounds."""
        return f"longest gradient that one {self.unit} may contribute (L2)"

    def clip_rows(self, last: float | None) -> list[Row]:
        """The clipping norm; `last` is C after the last round, where it adapts."""
        return [("Clipping norm", "C", f"{self.privacy.clip:g}", self.longest)]

    @property
    def sampling_meaning(self) -> str:
        """What the sampling rate is."""
        return f"chance of each {self.unit} to be drawn in a step, by a secret coin"

    @abstractmethod
    def parameter_rows(self) -> list[Row]:
        """This mode's own parameters: noise, steps, batches, grid."""

    @abstractmethod
    def strategy_meaning(self) -> str:
        """Why the strategy costs no privacy."""

    @abstractmethod
    def no_wrap(self) -> tuple[str, str]:
        """How certain it is that the sum cannot wrap, and the largest possible sum, as a product."""

    @property
    @abstractmethod
    def sampler(self) -> str:
        """How noise is drawn."""

    @abstractmethod
    def delta_rows(self, terms: DeltaTerms) -> list[tuple[str, float]]:
        """Each term that is subtracted from delta, with its name."""

    # Words of the report: its promise (`secfed.reports.promise`).

    @property
    def protected(self) -> tuple[str, str]:
        """One unit of privacy, and how far it reaches."""
        if self.by_record:
            return "one record", "of any person"
        return "one patient", "with all records that the site holds of that patient"

    @property
    def without(self) -> str:
        """The other data for which the published results would look nearly the same."""
        return f"without any {self.protected[0]}"

    @property
    def whose_promise(self) -> str:
        """The people to whom a party's budget promises something."""
        return "the patients of"

    @property
    def half_of_a_group(self) -> str:
        """The group in which a test looks for members."""
        return "If half of a group took part, the best test is"

    def for_a_change(self, promised: str, exchange: str) -> str:
        """What a change of data costs beside the promise, both as figures for people."""
        says = "what it says" if self.by_record else "what a record says"
        return (
            f"The promise of {promised} covers taking part or not; for {says} (a changed diagnosis) it is {exchange}."
        )

    @property
    def room(self) -> str:
        """How much of the parties' noise the figure does not need; empty if it needs no other party's noise."""
        return ""

    @abstractmethod
    def against(self, durations: str) -> tuple[str, str]:
        """Against whom the figure holds in a federation, and why. `durations` says at how many parties uploads were
        held back."""

    # Words of the report: what the promise rests on (`secfed.reports.rests_on`), and what it leaves out
    # (`secfed.reports.caveats`).

    @abstractmethod
    def rests_on_code(self) -> list[Statement]:
        """How units are drawn and bounded, and noise is made."""

    @property
    def public_denominators(self) -> str:
        """Why denominators and weights are public."""
        return "they are in the signed study"

    def rests_on_people(self) -> list[Statement]:
        """What only people can know."""
        unit = self.unit
        one = not_said(
            "One patient is one patient id, at one site",
            "each site knows its own ids; the top of this report says what the other cases cost",
        )
        if self.by_record:
            one = not_said(
                "The unit to protect is one record",
                "a person with several records is not protected as a person",
            )
        return [
            one,
            not_said(
                "The study's figures were chosen without looking at the patients' records",
                "tuning runs on the same patients must be booked as separate studies",
            ),
            not_said(
                f"The nominal numbers of {unit}s reveal nothing about one {unit}",
                "they are public, and a person must have rounded them; a node only checks that its own is near",
            ),
        ]

    def rests_on_others(self) -> list[Statement]:
        """What the claim against the aggregator and the other parties also needs."""
        return []

    @property
    def own_people(self) -> str:
        """Who is at a party, beside its machines."""
        return "staff"

    def people_not_covered(self, costs: Costs) -> list[tuple[str, str]]:
        """People whom the guarantee does not cover, or covers less than it seems."""
        at = dict(costs.epsilon_at_hospitals)
        return [
            (
                "Findings about patients in general",
                "What the model learns about a population applies to everyone in it, whether they took part or not.",
            ),
            (
                "Other people named in the records",
                "A record is protected for the patient whose id it carries. A relative or a doctor whom many records "
                "mention is not protected.",
            ),
            (
                "Patients known to several sites, or under several ids",
                f"Their epsilon is higher: {rounded_up(at[2], 2)} with records at two sites, "
                f"{rounded_up(at[3], 2)} at three.",
            ),
        ]

    @property
    def who_takes_part(self) -> tuple[str, str]:
        """What is known of a party."""
        return (
            "Who takes part, and when",
            "The sites' names, their nominal numbers of patients and their attendance are known to all parties.",
        )

    @property
    def same_work(self) -> str:
        """What takes equally long for everybody."""
        return "Choosing records, batches and clipping are the same work whoever is drawn"

    @abstractmethod
    def most_moved(self, parties: int) -> str:
        """How far one party that cheats can move a sum of so many."""

    @property
    def withdrawal(self) -> str:
        """What has to be done for somebody who withdraws consent."""
        return (
            "The site must take the patient out of the file, and accept the changed file. This takes effect when the "
            "node next starts the job. What was trained, spent and published stays."
        )

    def batches_row(self, batches: set[int]) -> Row:
        """K of all sites."""
        fewest, most = min(batches), max(batches)
        return (
            "Batches per step",
            "K",
            f"{fewest}" if fewest == most else f"{fewest} to {most}, by the site's nominal size",
            f"always exactly this many, padded: more are drawn with a probability below 2^-{OVERFLOW_BITS}",
        )
