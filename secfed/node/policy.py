"""What a site's owner allows: a local TOML file that no study can override. It never leaves the site.

A policy can only refuse. It never changes a value that goes into a derivation, or two honest nodes would derive
different sessions. It must say which base models may be loaded, how small a round may be, and what each population of
patients may spend; what else it says narrows that further. A file that cannot be read allows nothing.
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
from secfed.study.manifest import HexDigest, Study, TaskSection
from secfed.study.problems import read_table
from secfed.study.sections import Section

_IdentityKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CohortPolicy(Section):
    """The smallest rounds that this site takes part in."""

    minimum: int = Field(ge=2)
    honest_minimum: int = Field(default=HONEST_MIN, ge=HONEST_MIN)


class BudgetPolicy(Section):
    """What one population of patients may spend, over all studies: see `dp.budgets.Grant`."""

    population: str
    patients: int
    epsilon: float
    delta: float
    disjoint: str = ""
    epsilon_per_study: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """The most that one study may take of `epsilon`. No limit beside the budget itself when absent."""

    @model_validator(mode="after")
    def _can_be_granted(self) -> BudgetPolicy:
        _ = self.grant
        return self

    @property
    def grant(self) -> Grant:
        """The same, as the ledger records it."""
        return Grant(self.population, self.patients, self.epsilon, self.delta, self.disjoint)


class AllowPolicy(Section):
    """What may be done here, and with whom. An empty list allows nothing; one that is absent, where it may be, any."""

    base_models: tuple[HexDigest, ...]
    """Base models that may be loaded, by digest: never by a name, which a study is free to choose."""
    tasks: tuple[TaskSection, ...] | None = None
    """What may be learnt: `[task]` tables, as they stand in a study. All values must be the same: which column names
    the patient decides who is protected."""
    members: tuple[_IdentityKey, ...] | None = None
    """Public identities that may be on a roster, this site's own included. Names do not count."""


class PacePolicy(Section):
    """When this site's uploads leave, so that nobody outside can tell how long its training took; and how long a round
    may last here."""

    upload_after_seconds: float = Field(default=0, ge=0, le=86_400)
    """A round's upload is held back until so long after the node was asked for it: choose more than a round ever takes
    here. At 0 it leaves when it is ready."""
    session_ends_after_seconds: float = Field(default=7200, gt=0, le=14 * 86_400)
    """So long after a round was opened here its session ends, and its secrets are wiped, whatever the aggregator sends
    or does not. Twice the aggregator's longest stage by default (`secfed.rounds.deadlines.Deadlines`)."""

    @model_validator(mode="after")
    def _uploads_leave_in_time(self) -> PacePolicy:
        if self.upload_after_seconds >= self.session_ends_after_seconds:
            raise ValueError(
                f"uploads would leave {self.upload_after_seconds:g} s after they were asked for, and sessions end "
                f"after {self.session_ends_after_seconds:g} s: set session_ends_after_seconds to more than a round"
            )
        return self


class TextsPolicy(Section):
    """How badly a base model may read this site's records: a study on what it cannot read spends for nothing."""

    unknown_at_most: float = Field(default=0.1, ge=0, le=1)
    """Of the tokens: those that the model does not know."""
    unreadable_at_most: float = Field(default=0.02, ge=0, le=1)
    """Of the records: those without any token that it knows."""
    cut_at_most: float = Field(default=1, ge=0, le=1)
    """Of the records: those longer than the study's max_length. No limit by default: a note's beginning may do."""


class Policy(Section):
    """One site's policy, for the population that a study is trained on."""

    cohort: CohortPolicy
    budget: BudgetPolicy
    allow: AllowPolicy
    pace: PacePolicy = PacePolicy()
    texts: TextsPolicy = TextsPolicy()

    def rules(self, study: Study) -> CohortRules:
        """The study's cohort rules as this site tightens them. Raises ParameterError if they cannot be met."""
        return study.cohort_rules(self.cohort.minimum, self.cohort.honest_minimum)

    def check(self, study: Study, site: str) -> None:
        """Refuse a study that this site does not allow.

        Raises:
            UserError: says which rules of the policy refuse, all of them.
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
                f"the policy of {site} does not fit this study: {error}",
                "Change the study's cohort, or have the site's owner change cohort.minimum in its policy.toml",
            )
            return
        if rules.really_tolerated(len(study.roster)) < 0:
            yield UserError(
                f"the policy of {site} wants more nodes than the study's roster has",
                "Enrol more nodes, or have the site's owner lower cohort.minimum in its policy.toml",
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
                f"the policy of {site} does not allow this study's task: to learn {study.task.label_column} from "
                f"{study.task.text_column}, with these {len(study.task.labels)} labels and patients by "
                f"{study.task.patient_column}",
                "If the site's owner agrees, copy the study's [task] table into its policy.toml as [[allow.tasks]], in "
                "place of an empty list of tasks",
            )
        strangers = [entry for entry in study.roster if entry.identity not in (allow.members or ())]
        if allow.members is not None and strangers:
            more = f" (and {len(strangers) - 1} more)" if len(strangers) > 1 else ""
            yield UserError(
                f"the policy of {site} does not allow {strangers[0].name}{more} on a roster",
                "If the site's owner knows them and has compared their fingerprints by telephone, add the identities "
                "that `secfed study show` lists to allow.members in its policy.toml",
            )

    def _beyond_budget(self, study: Study, site: str) -> Iterator[UserError]:
        budget = self.budget
        nominal, most = study.roster[study.index_of(site)].patients, budget.patients
        if nominal > most:
            yield UserError(
                f"the study counts {nominal} patients at {site}, whose policy grants a budget for {most}",
                "Have a study signed that counts no more, or have the site's owner correct budget.patients in its "
                "policy.toml before anything is granted",
            )
        ceiling = budget.epsilon_per_study
        if ceiling is not None and study.privacy.epsilon > ceiling:
            yield UserError(
                f"the study promises epsilon {study.privacy.epsilon:g}, and the policy of {site} allows one study at "
                f"most {ceiling:g} of the budget of {budget.population}",
                "Have a study signed that costs less, or have the site's owner raise budget.epsilon_per_study in its "
                "policy.toml",
            )


class PolicyFile(Section):
    """What a policy's file says: as `Policy`, with a budget for each population of patients, or none yet."""

    cohort: CohortPolicy
    budget: tuple[BudgetPolicy, ...] = ()
    """`[budget]` for one population, `[[budget]]` for each of several."""
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
        """A population's budget, if it has one."""
        return next((budget for budget in self.budget if budget.population == population), None)

    def policy(self, budget: BudgetPolicy) -> Policy:
        """The policy for the population of this budget."""
        return Policy(cohort=self.cohort, budget=budget, allow=self.allow, pace=self.pace, texts=self.texts)


def load_policy(path: Path, site: str, population: str | None = None) -> Policy:
    """Read a site's policy for one population of patients.

    Args:
        path: the file.
        site: whose it is, for the error's text.
        population: whose patients are trained on; the only one of the policy when absent.

    Raises:
        UserError: it is missing, not a policy, or grants this population nothing.
    """
    file = load_policy_file(path, site)
    if population is not None:
        budget = file.budget_of(population)
        if budget is None:
            raise UserError(
                f"the policy of {site} grants no budget to {population}",
                f"If the site's owner agrees, add a [[budget]] table for this population to {path}",
            )
        return file.policy(budget)
    if len(file.budget) != 1:
        raise UserError(
            f"the policy of {site} has budgets for {len(file.budget)} populations, and it takes one to know which is "
            "meant",
            f"Leave one [budget] in {path}",
        )
    return file.policy(file.budget[0])


def load_policy_file(path: Path, site: str) -> PolicyFile:
    """Read a site's policy. Raises UserError when it is missing or not a policy."""
    try:
        with path.open("rb") as file:
            data = file.read(TOML_BYTES_MAX + 1)
    except OSError as error:
        raise UserError(
            f"the policy of {site} cannot be read: {path} ({error.strerror})",
            "Every site needs a policy.toml; copy one from the demo and adapt it",
        ) from error
    return read_table(PolicyFile, path, data)
