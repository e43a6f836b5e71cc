"""What a site's owner says in policy.toml holds, whatever a study says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from audits.simulator.studies import study_from
from crypto.identity import Identity
from secfed.errors import UserError
from secfed.node.policy import Policy, load_policy
from secfed.study.manifest import Study
from tests.secfed.federation import BASE_DIGEST, identities, make_study, study_values

NAME = "hospital-0"
BUDGET = '[budget]\npopulation = "adults"\npatients = 10000\nepsilon = 8.0\ndelta = 1e-5\n'
ALLOW = f'[allow]\nbase_models = ["{BASE_DIGEST}"]\n'
COHORT = "[cohort]\nminimum = 3\n"
TASK = """
[[allow.tasks]]
patient_column = "patient"
text_column = "text"
label_column = "label"
labels = ["no", "yes"]
"""


def load(folder: Path, text: str, population: str | None = None) -> Policy:
    path = folder / "policy.toml"
    path.write_text(text)
    return load_policy(path, NAME, population)


def refusal(policy: Policy, study: Study) -> str:
    with pytest.raises(UserError) as refused:
        policy.check(study, NAME)
    assert str(refused.value).isprintable()
    return str(refused.value)


def members(keys: list[Identity]) -> str:
    return f"members = {json.dumps([key.public.raw.hex() for key in keys])}\n"


def test_what_a_policy_does_not_mention_it_does_not_narrow(tmp_path: Path) -> None:
    load(tmp_path, COHORT + BUDGET + ALLOW).check(make_study(), NAME)


def test_a_study_may_not_take_more_than_the_ceiling_of_one_study(tmp_path: Path) -> None:
    policy = load(tmp_path, COHORT + BUDGET + "epsilon_per_study = 2.0\n" + ALLOW)
    policy.check(make_study(privacy={"epsilon": 2.0}), NAME)
    assert "allows one study at most 2 of the budget of adults" in refusal(policy, make_study())


@pytest.mark.parametrize("ceiling", ["0", "-1.0", "inf", "nan", '"much"', "[]"])
def test_a_ceiling_that_is_none_makes_the_policy_no_policy(tmp_path: Path, ceiling: str) -> None:
    with pytest.raises(UserError):
        load(tmp_path, COHORT + BUDGET + f"epsilon_per_study = {ceiling}\n" + ALLOW)


def test_a_task_that_the_owner_copied_from_the_study_is_allowed(tmp_path: Path) -> None:
    load(tmp_path, COHORT + BUDGET + ALLOW + TASK).check(make_study(), NAME)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ["no", "yes", "perhaps"]},
        {"labels": ["yes", "no"]},
        {"patient_column": "visit"},
        {"text_column": "letter"},
        {"label_column": "insurance"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_task_is_refused_whatever_it_is_called(tmp_path: Path, change: dict[str, Any]) -> None:
    policy = load(tmp_path, COHORT + BUDGET + ALLOW + TASK)
    assert "copy the study's [task] table" in refusal(policy, make_study(task=change))


def test_an_empty_list_of_tasks_allows_none(tmp_path: Path) -> None:
    assert "does not allow this study's task" in refusal(
        load(tmp_path, COHORT + BUDGET + ALLOW + "tasks = []\n"), make_study()
    )


def test_a_roster_of_members_is_allowed_and_one_with_a_stranger_is_not(tmp_path: Path) -> None:
    keys = identities(5)
    load(tmp_path, COHORT + BUDGET + ALLOW + members([*keys, Identity(bytes(32))])).check(make_study(), NAME)
    assert "does not allow hospital-4 on a roster" in refusal(
        load(tmp_path, COHORT + BUDGET + ALLOW + members(keys[:4])), make_study()
    )
    assert "hospital-0 (and 4 more)" in refusal(
        load(tmp_path, COHORT + BUDGET + ALLOW + "members = []\n"), make_study()
    )


def test_a_stranger_with_a_members_name_is_a_stranger(tmp_path: Path) -> None:
    values = study_values()
    values["roster"][4]["identity"] = Identity(bytes(32)).public.raw.hex()
    policy = load(tmp_path, COHORT + BUDGET + ALLOW + members(identities(5)))
    assert "hospital-4" in refusal(policy, study_from(values))


def test_each_population_has_a_budget_of_its_own(tmp_path: Path) -> None:
    adults = BUDGET.replace("[budget]", "[[budget]]")
    children = adults.replace("adults", "children").replace("8.0", "2.0") + 'disjoint = "two registers"\n'
    text = COHORT + adults + children + ALLOW
    load(tmp_path, text, "adults").check(make_study(), NAME)
    assert load(tmp_path, text, "children").budget.epsilon == 2.0
    with pytest.raises(UserError, match="no budget for newborns"):
        load(tmp_path, text, "newborns")
    with pytest.raises(UserError, match="budgets for 2 populations"):
        load(tmp_path, text)
    with pytest.raises(UserError, match="two budgets are for the same population"):
        load(tmp_path, COHORT + adults + adults + ALLOW, "adults")


def test_a_budget_of_another_population_that_is_wrong_makes_the_policy_no_policy(tmp_path: Path) -> None:
    adults = BUDGET.replace("[budget]", "[[budget]]")
    wrong = adults.replace("adults", "children").replace("1e-5", "0.5")
    with pytest.raises(UserError, match=r"budget\.1: a delta of 0\.5"):
        load(tmp_path, COHORT + adults + wrong + ALLOW, "adults")


@pytest.mark.parametrize("missing", [COHORT, BUDGET, ALLOW])
def test_a_policy_without_a_table_that_it_needs_allows_nothing(tmp_path: Path, missing: str) -> None:
    with pytest.raises(UserError):
        load(tmp_path, (COHORT + BUDGET + ALLOW).replace(missing, ""))


@pytest.mark.parametrize("table", ["[allow]", "[cohort]", "[budget]"])
def test_a_misspelt_rule_makes_the_policy_no_policy(tmp_path: Path, table: str) -> None:
    with pytest.raises(UserError, match="this key is unknown"):
        load(tmp_path, (COHORT + BUDGET + ALLOW).replace(table, f"{table}\nepsilon_per_studie = 1.0"))
