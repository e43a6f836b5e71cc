"""What a site's owner allows: a local TOML file that no study can override. It never leaves the site.

A policy can only refuse. It never changes a value that goes into a derivation, or two honest nodes would derive
different sessions. Whatever it does not mention it does not allow; a file that cannot be read allows nothing.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dp.budgets import Grant
from protocols.errors import ParameterError
from protocols.parameters import HONEST_MIN, CohortRules
from secfed.errors import UserError
from secfed.study import HexDigest, Study, first_problem
from secfed.toml_files import read_toml


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CohortPolicy(_Section):
    """The smallest rounds that this site takes part in."""

    minimum: int = Field(ge=2)
    honest_minimum: int = Field(default=HONEST_MIN, ge=HONEST_MIN)


class BudgetPolicy(_Section):
    """What one population of patients may spend, over all studies: see `dp.budgets.Grant`."""

    population: str
    patients: int
    epsilon: float
    delta: float
    disjoint: str = ""

    @model_validator(mode="after")
    def _can_be_granted(self) -> BudgetPolicy:
        _ = self.grant
        return self

    @property
    def grant(self) -> Grant:
        """The same, as the ledger records it."""
        return Grant(self.population, self.patients, self.epsilon, self.delta, self.disjoint)


class AllowPolicy(_Section):
    """Base models that may be loaded here, by digest."""

    base_models: tuple[HexDigest, ...]


class PacePolicy(_Section):
    """When this site's uploads leave, so that nobody outside can tell how long its training took."""

    upload_after_seconds: float = Field(default=0, ge=0, le=86_400)
    """A round's upload is held back until so long after the node was asked for it: choose more than a round ever takes
    here. At 0 it leaves when it is ready."""


class Policy(_Section):
    """One site's policy."""

    cohort: CohortPolicy
    budget: BudgetPolicy
    allow: AllowPolicy
    pace: PacePolicy = PacePolicy()

    def rules(self, study: Study) -> CohortRules:
        """The study's cohort rules as this site tightens them. Raises ParameterError if they cannot be met."""
        return study.cohort_rules(self.cohort.minimum, self.cohort.honest_minimum)

    def check(self, study: Study, site: str) -> None:
        """Refuse a study that this site does not allow.

        Raises:
            UserError: says which rule of the policy refuses.
        """
        if study.model.digest not in self.allow.base_models:
            raise UserError(
                f"the policy of {site} does not allow this study's base model",
                f"If the site's owner agrees, add {study.model.digest} to allow.base_models in its policy.toml",
            )
        nominal, most = study.roster[study.index_of(site)].patients, self.budget.patients
        if nominal > most:
            raise UserError(
                f"the study counts {nominal} patients at {site}, whose policy grants a budget for {most}",
                "Have a study signed that counts no more, or have the site's owner correct budget.patients in its "
                "policy.toml before anything is granted",
            )
        try:
            rules = self.rules(study)
        except ParameterError as error:
            raise UserError(
                f"the policy of {site} does not fit this study: {error}",
                "Change the study's cohort, or have the site's owner change cohort.minimum in its policy.toml",
            ) from error
        if rules.really_tolerated(len(study.roster)) < 0:
            raise UserError(
                f"the policy of {site} wants more nodes than the study's roster has",
                "Enrol more nodes, or have the site's owner lower cohort.minimum in its policy.toml",
            )


def load_policy(path: Path, site: str) -> Policy:
    """Read a site's policy. Raises UserError when it is missing or not a policy."""
    try:
        values = read_toml(path)
    except OSError as error:
        raise UserError(
            f"the policy of {site} cannot be read: {path} ({error.strerror})",
            "Every site needs a policy.toml; copy one from the demo and adapt it",
        ) from error
    try:
        return Policy.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path}: {first_problem(error)}", "Mend it in the policy file; nothing was started") from error
