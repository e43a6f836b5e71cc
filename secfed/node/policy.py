"""A site's policy: what its owner allows, in a local TOML file that no study can override. It never leaves the site.

A policy can only refuse. It never changes a value that enters a derivation; otherwise two honest nodes would derive
different sessions. It must list the base models that may be loaded, the smallest round, and what each population of
patients may spend; its other rules restrict this further. A file that cannot be read allows nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from dp.budgets import Grant
from protocols.errors import ParameterError
from protocols.parameters import HONEST_MIN, CohortRules
from secfed.errors import Problems, UserError
from secfed.files.toml import TOML_BYTES_MAX
from secfed.study.manifest import HexDigest, Study
from secfed.study.problems import read_table
from secfed.study.sections import Section
from secfed.study.tasks import Task

_IdentityKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CohortPolicy(Section):
    """The smallest rounds that this site joins."""

    minimum: int = Field(ge=2)
    honest_minimum: int = Field(default=HONEST_MIN, ge=HONEST_MIN)


class BudgetPolicy(Section):
    """What one population of patients may spend across all studies: see `dp.budgets.Grant`."""

    population: str
    patients: int
    epsilon: float
    delta: float
    disjoint: str = ""
    epsilon_per_study: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """The most of `epsilon` that one study may take. Absent: limited only by the budget itself."""

    @model_validator(mode="after")
    def _can_be_granted(self) -> BudgetPolicy:
        _ = self.grant
        return self

    @property
    def grant(self) -> Grant:
        """The same budget, as the ledger records it."""
        return Grant(self.population, self.patients, self.epsilon, self.delta, self.disjoint)


class AllowPolicy(Section):
    """What may be done here, and with whom. An empty list allows nothing; an absent optional list allows anything."""

    base_models: tuple[HexDigest, ...]
    """Base models that may be loaded, by digest. Names do not count: a study may choose any name."""
    tasks: tuple[Task, ...] | None = None
    """Tasks that a study may learn: `[task]` tables, as in a study file. All values must match: the patient column, for
    example, decides who is protected.
    """
    members: tuple[_IdentityKey, ...] | None = None
    """Public identities that a roster may contain, including this site's own. Names do not count."""


class PacePolicy(Section):
    """When this site's uploads leave, so that their timing does not reveal how long training took; and how long a round
    may last here.
    """

    upload_after_seconds: float = Field(default=0, ge=0, le=86_400)
    """Seconds from the request for a round's upload until it leaves: choose more than a round ever takes here. At 0 it
    leaves as soon as it is ready.
    """
    session_ends_after_seconds: float = Field(default=7200, gt=0, le=14 * 86_400)
    """Seconds from a round's opening here until its session ends and its secrets are wiped, whatever the aggregator
    sends. Default: twice the aggregator's longest stage (`secfed.rounds.deadlines.Deadlines`).
    """

    @model_validator(mode="after")
    def _uploads_leave_in_time(self) -> PacePolicy:
        if self.upload_after_seconds >= self.session_ends_after_seconds:
            raise ValueError(
                f"upload_after_seconds = {self.upload_after_seconds:g} is not below session_ends_after_seconds = "
                f"{self.session_ends_after_seconds:g}: set the latter to more than a whole round"
            )
        return self


class TextsPolicy(Section):
    """Limits on how badly a base model may read this site's records: a study on unreadable records wastes budget."""

    unknown_at_most: float = Field(default=0.1, ge=0, le=1)
    """Share of tokens that the model does not know."""
    unreadable_at_most: float = Field(default=0.02, ge=0, le=1)
    """Share of records without any token that the model knows."""
    cut_at_most: float = Field(default=1, ge=0, le=1)
    """Share of records longer than the study's max_length. No limit by default: the beginning of a note may be enough.
    """


class Policy(Section):
    """One site's policy for the population that a study trains on."""

    cohort: CohortPolicy
    budget: BudgetPolicy
    allow: AllowPolicy
    pace: PacePolicy = PacePolicy()
    texts: TextsPolicy = TextsPolicy()

    def rules(self, study: Study) -> CohortRules:
        """The study's cohort rules, tightened by this site. Raises ParameterError if they cannot be met."""
        return study.cohort_rules(self.cohort.minimum, self.cohort.honest_minimum)

    def check(self, study: Study, site: str) -> None:
        """Raise if this site does not allow the study.

        Raises:
            UserError: names all rules of the policy that refuse.
        """
        found = [*self._not_allowed(study, site), *self._beyond_budget(study, site), *self._too_few(study, site)]
        if len(found) == 1:
            raise found[0]
        if found:
            said = [f"{each.what} ({each.next_step})" for each in found]
            raise Problems(f"the policy of {site} refuses this study", said, "Nothing was started")

    def _too_few(self, study: Study, site: str) -> Iterator[UserError]:
        try:
            rules = self.rules(study)
        except ParameterError as error:
            yield UserError(
                f"the policy of {site} and this study's cohort rules conflict: {error}",
                "Change the study's cohort, or ask the site's owner to change cohort.minimum in policy.toml",
            )
            return
        if rules.really_tolerated(len(study.roster)) < 0:
            yield UserError(
                f"the policy of {site} requires more nodes than the study's roster has",
                "Enrol more nodes, or ask the site's owner to lower cohort.minimum in policy.toml",
            )

    def _not_allowed(self, study: Study, site: str) -> Iterator[UserError]:
        allow = self.allow
        if study.model.digest not in allow.base_models:
            yield UserError(
                f"the policy of {site} does not allow this study's base model",
                f"If the site's owner agrees, add {study.model.digest} to allow.base_models in its policy.toml",
            )
        if allow.tasks is not None and study.task not in allow.tasks:
            yield UserError(
                f"the policy of {site} does not allow this study's task: learning {study.task.in_short}",
                "If the site's owner agrees, copy the study's [task] table into policy.toml as [[allow.tasks]], "
                "replacing an empty list of tasks",
            )
        strangers = [entry for entry in study.roster if entry.identity not in (allow.members or ())]
        if allow.members is not None and strangers:
            more = f" (and {len(strangers) - 1} more)" if len(strangers) > 1 else ""
            yield UserError(
                f"the policy of {site} does not allow {strangers[0].name}{more} on a roster",
                "If the site's owner knows them and has compared their fingerprints by telephone, add the identities "
                "from `secfed study show` to allow.members in policy.toml",
            )

    def _beyond_budget(self, study: Study, site: str) -> Iterator[UserError]:
        budget = self.budget
        nominal, most = study.roster[study.index_of(site)].patients, budget.patients
        if nominal > most:
            yield UserError(
                f"the study counts {nominal} patients at {site}, but the site's policy grants a budget for {most}",
                "Ask for a study with a lower count, or ask the site's owner to correct budget.patients in "
                "policy.toml before the first grant",
            )
        ceiling = budget.epsilon_per_study
        if ceiling is not None and study.privacy.epsilon > ceiling:
            yield UserError(
                f"the study promises epsilon {study.privacy.epsilon:g}, but the policy of {site} allows one study at "
                f"most {ceiling:g} of the budget of {budget.population}",
                "Ask for a study that costs less, or ask the site's owner to raise budget.epsilon_per_study in "
                "policy.toml",
            )


class PolicyFile(Section):
    """A policy file: like `Policy`, but with any number of budgets, one per population."""

    cohort: CohortPolicy
    budget: tuple[BudgetPolicy, ...] = ()
    """Either one `[budget]`, or one `[[budget]]` per population."""
    allow: AllowPolicy
    pace: PacePolicy = PacePolicy()
    texts: TextsPolicy = TextsPolicy()

    @field_validator("budget", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, dict) else tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _each_population_once(self) -> PolicyFile:
        populations = [budget.population for budget in self.budget]
        if len(set(populations)) != len(populations):
            raise ValueError("two budgets are for the same population")
        return self

    def budget_of(self, population: str) -> BudgetPolicy | None:
        """This population's budget, if it has one."""
        return next((budget for budget in self.budget if budget.population == population), None)

    def policy(self, budget: BudgetPolicy) -> Policy:
        """The policy for this budget's population."""
        return Policy(cohort=self.cohort, budget=budget, allow=self.allow, pace=self.pace, texts=self.texts)


def load_policy(path: Path, site: str, population: str | None = None) -> Policy:
    """Read a site's policy for one population of patients.

    Args:
        path: the file.
        site: the site's name, for error texts.
        population: the patients to train on; may be absent if the policy has only one population.

    Raises:
        UserError: the file is missing, is not a policy, or has no budget for this population.
    """
    file = load_policy_file(path, site)
    if population is not None:
        budget = file.budget_of(population)
        if budget is None:
            raise UserError(
                f"the policy of {site} has no budget for {population}",
                f"If the site's owner agrees, add a [[budget]] table for this population to {path}",
            )
        return file.policy(budget)
    if len(file.budget) != 1:
        raise UserError(
            f"the policy of {site} has budgets for {len(file.budget)} populations, but this run needs exactly one",
            f"Keep one [budget] in {path}",
        )
    return file.policy(file.budget[0])


def load_policy_file(path: Path, site: str) -> PolicyFile:
    """Read a site's policy. Raises UserError if the file is missing or is not a policy."""
    try:
        with path.open("rb") as file:
            data = file.read(TOML_BYTES_MAX + 1)
    except OSError as error:
        raise UserError(
            f"the policy of {site} cannot be read: {path} ({error.strerror})",
            "Every site needs a policy.toml; copy one from the demo and adapt it",
        ) from error
    return read_table(PolicyFile, path, data)
