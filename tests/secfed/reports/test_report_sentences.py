"""Every sentence of the report that a data-protection officer relies on: on the page, true, and with figures that are
computed here once more, with dp-accounting alone or by hand."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.privacy_accountant import NeighboringRelation

from crypto.identity import Identity
from secfed.files.figures import rounded_up
from secfed.reports.cross_checks import Answer, Answers
from secfed.reports.html import render_report
from secfed.reports.privacy import build_report
from secfed.rounds.run_facts import RunKind
from secfed.study.manifest import Study
from secfed.study.vouchers import NOT_SAID, Statement, Voucher
from tests.secfed.reports.test_reports import _study, _summary
from tests.secfed.rounds.test_node_study import study_of as nodes_of

RATE, SIGMA, STEPS, DELTA = 0.06, 0.5229, 8, 1e-5
NAMES = ("north", "south", "east", "west")


def study_of(**changes: Any) -> Study:
    """The federation's demo, by its figures: four sites, one of which may work against the others."""
    values: dict[str, Any] = {
        "algorithm": {"strategy": "fedopt-adam", "rounds": STEPS, "server_learning_rate": 0.1, "physical_batch": 32},
        "privacy": {
            "mode": "distributed",
            "epsilon": 8.0,
            "delta": DELTA,
            "noise_multiplier": SIGMA,
            "sampling_rate": RATE,
            "clip": 1.0,
        },
        "cohort": {"colluders": 1, "tolerated_dropouts": 1, "minimum": 3},
        "roster": [
            {"name": name, "identity": Identity(bytes([index] * 32)).public.raw.hex(), "patients": 2000}
            for index, name in enumerate(NAMES, start=1)
        ],
    }
    return _study(**{**values, **changes})


Change = Callable[[dict[str, Any]], None]


def shown(study: Study, kind: RunKind = RunKind.FEDERATION, held_back: int = 0, change: Change | None = None) -> str:
    """The page's text, without markup."""
    summary = _summary(study, kind, held_back)
    summary["hospitals"] = [{**summary["hospitals"][0], "name": entry.name} for entry in study.roster]
    if change is not None:
        change(summary)
    return text_of(render_report(build_report(study, summary)))


def text_of(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page[page.index("<main>") :])).split())


@pytest.fixture(scope="module")
def page() -> str:
    return shown(study_of())


@pytest.fixture(scope="module")
def loss() -> Any:
    return pld.from_gaussian_mechanism(SIGMA, sampling_prob=RATE, value_discretization_interval=1e-4).self_compose(
        STEPS
    )


@pytest.fixture(scope="module")
def at_two() -> Any:
    """One patient at two sites: a Binomial(2, q) mixture of shifts."""
    chances = [(1 - RATE) ** 2, 2 * RATE * (1 - RATE), RATE**2]
    one = pld.from_mixture_gaussian_mechanism(SIGMA, [0, 1, 2], chances, value_discretization_interval=1e-3)
    return one.self_compose(STEPS)


def figure(page: str, before: str) -> float:
    """The figure behind these words."""
    found = re.search(re.escape(before) + r"(\d+(?:\.\d+)?)", page)
    assert found is not None, before
    return float(found[1])


def up_from(value: float) -> Any:
    """What a figure that is rounded up to a hundredth may be, the noise's terms included."""
    return pytest.approx(value + 0.005, abs=0.0055)


# Who vouches


@pytest.mark.sweep
def test_every_statement_names_one_of_five_kinds_and_nobody_is_said_to_have_said_what_nobody_was_asked() -> None:
    study = study_of()
    for kind in RunKind:
        report = build_report(study, _summary(study, kind))
        rows = report["accounting"]["rests_on"]
        kinds = [voucher.value for voucher in Voucher]
        assert [row["vouched_by"] for row in rows] == sorted((row["vouched_by"] for row in rows), key=kinds.index)
        assert {row["vouched_by"] for row in rows} == set(kinds)
        for row in rows:
            assert row["said"] == (NOT_SAID if row["vouched_by"] == "said by a person" else "")
        assert set(report["vouched_by"].values()) <= set(kinds)
        text = json.dumps(report, ensure_ascii=False)
        assert "attested" not in text
        assert '"checked"' not in text


def test_what_only_people_know_is_not_said(page: str) -> None:
    for statement in (
        "One patient is one patient id, at one site",
        "The study's figures were chosen without looking at the patients' records",
        "The nominal numbers of patients reveal nothing about one patient",
    ):
        assert f"{statement} said by a person NOT SAID" in page


def test_an_owners_signed_word_is_printed_as_said_with_its_words() -> None:
    study = study_of()

    def attested(summary: dict[str, Any]) -> None:
        summary["hospitals"][1] |= {"population": "children", "disjoint": "Dr. Roe: nobody is in both registers"}

    found = shown(study, change=attested)
    assert (
        "Nobody of “children” at south is in another population of the same site said by a person owner of south, "
        "in its signed ledger: “Dr. Roe: nobody is in both registers”"
    ) in found


def test_accuracy_seconds_bytes_and_engine_are_the_coordinators_word(page: str) -> None:
    assert "The guarantee does not cover that set, so it should hold public or synthetic data only. word of the" in page
    assert "Accuracy before and after word of the coordinator" in page
    assert re.search(r"When it ran, how long, how many bytes .* engine's full name word of the coordinator", page)
    assert re.search(r"At which stage somebody dropped out, seconds and bytes \(.*\): word of the coordinator", page)
    assert "Versions word of the coordinator" in page


def test_what_tests_show_and_what_files_prove_is_told_apart(page: str) -> None:
    tested, proved = "tested in the code, not in this run", "proved by this run's files"
    assert f"The noise has the distribution that is accounted for {tested}" in page
    assert f"No patient contributes a gradient longer than C = 1 {tested}" in page
    assert (
        f"Every site of the roster signed this study, and its figures are those that were accounted for {proved}"
        in page
    )


def test_a_person_alone_can_be_said_to_have_said_something() -> None:
    for voucher, said in ((Voucher.SAID, ""), (Voucher.PROVED, NOT_SAID), (Voucher.ASSUMED, "Dr. Roe")):
        with pytest.raises(ValueError, match="statements that a person vouches for"):
            Statement("It rains", voucher, "look", said)


# How it ran


def test_a_demonstration_claims_nothing_against_whoever_ran_it() -> None:
    found = shown(study_of(), RunKind.DEMONSTRATION)
    assert "DEMONSTRATION: all parties ran on one machine. Nothing is claimed against whoever ran it." in found
    assert (
        "This holds against anybody who sees what the study published: the adapter and the sums of all rounds." in found
    )
    assert "on a machine of its own" not in found


def test_a_federation_says_where_uploads_were_held_back() -> None:
    found = shown(study_of(), held_back=3)
    assert "not counting what durations show: uploads were held back at 3 of 4 sites" in found
    assert "Uploads were held back to a fixed moment at 3 of 4 sites." in found


# The sentences


@pytest.mark.sweep
def test_one_hospital_and_several_that_work_against_the_others(page: str) -> None:
    assert (
        "as long as no more than one site works against the others (alone, with another, or with the aggregator), "
        "leaks its noise or leaves it out, and nobody breaks the cryptography"
    ) in page
    roster = [
        {"name": f"site-{index}", "identity": Identity(bytes([index] * 32)).public.raw.hex(), "patients": 1000}
        for index in range(1, 8)
    ]
    two = study_of(cohort={"colluders": 2, "tolerated_dropouts": 1, "minimum": 5}, roster=roster)
    against = build_report(two, _summary(two, RunKind.FEDERATION))["guarantee"]["against"]
    assert "no more than two sites work against the others (alone, together, or with the aggregator), leak" in against


def test_the_promise_is_in_plain_words_and_its_figure_has_one_form(page: str, loss: Any) -> None:
    assert "What was published would look nearly the same without any one patient; the table in section 1" in page
    exact = loss.get_epsilon_for_delta(DELTA)
    assert exact <= figure(page, "with epsilon 8.00 (") <= exact + 0.001
    figures = {rounded_up(exact, decimals) for decimals in (1, 2, 3, 4)} | {"8"}
    in_epsilons = set(re.findall(r"(?<![\d.])(?:8|[78]\.\d+)(?![\d.]*\d)", page)) & figures
    assert in_epsilons <= {"8.00", "7.9982", "8"}
    assert "8 allowed" not in page
    assert "at most 8 " not in page


def test_delta_is_told_as_a_chance_for_one_and_for_all_and_epsilon_below_it(page: str, loss: Any) -> None:
    assert "Outside this bound: at most 1 in 100,000 per patient (0.08 over the 8,000 of this study)." in page
    assert figure(page, "No cliff: epsilon is ") == up_from(loss.get_epsilon_for_delta(DELTA / 10))
    assert "at delta 1e-6." in page


@pytest.mark.sweep
def test_where_the_noise_takes_all_of_a_tenth_of_delta_there_is_no_word_of_no_cliff() -> None:
    coarse = {**study_of().privacy.model_dump(), "grid": 900}
    assert "No cliff" not in (found := shown(study_of(privacy=coarse)))
    assert "At delta 1e-6 there is no figure: the terms of the noise alone take more than that." in found


def test_no_test_can_do_better(page: str) -> None:
    assert "The table is the limit of any test. Most attackers know less." in page
    assert "forecast" not in page


def test_the_best_tests_chance_is_computed_for_one_hospital_and_for_two(page: str, loss: Any, at_two: Any) -> None:
    one, two = ((1 + each.get_delta_for_epsilon(0.0)) / 2 for each in (loss, at_two))
    assert f"If half of a group took part, the best test is right for at most {rounded_up(100 * one, 1)} %" in page
    assert "a coin for 50 %." in page
    assert f"the best test is right for at most {rounded_up(100 * two, 1)} %; at three" in page
    assert (rounded_up(100 * one, 1), rounded_up(100 * two, 1)) == ("58.8", "65.9")


def test_the_table_of_tests_has_no_loose_column_beside(page: str) -> None:
    assert "epsilon and delta alone" not in page
    assert "it finds, of those who took part, at most blind guessing finds" in page


@pytest.mark.sweep
def test_two_hospitals_two_that_work_against_the_others_and_both_are_told_at_the_top(page: str, at_two: Any) -> None:
    top = page[: page.index("1. What this means")]
    assert figure(top, "one patient is at two sites of this study: epsilon ") == up_from(
        at_two.get_epsilon_for_delta(DELTA)
    )
    # Of three survivors two work against the others: one share of the two that the nominal noise is made of.
    left = SIGMA / math.sqrt(2)
    worse = pld.from_gaussian_mechanism(left, sampling_prob=RATE, value_discretization_interval=1e-3).self_compose(
        STEPS
    )
    assert figure(top, "two sites work against the others, or leak their noise or leave it out: epsilon ") == up_from(
        worse.get_epsilon_for_delta(DELTA)
    )
    chances = [(1 - RATE) ** 2, 2 * RATE * (1 - RATE), RATE**2]
    both = pld.from_mixture_gaussian_mechanism(left, [0, 1, 2], chances, value_discretization_interval=1e-3)
    assert figure(top, "is at two sites and two sites do so: epsilon ") == up_from(
        both.self_compose(STEPS).get_epsilon_for_delta(DELTA)
    )


def test_what_a_record_says_has_a_figure_of_its_own(page: str) -> None:
    exchanged = pld.from_gaussian_mechanism(
        SIGMA,
        sampling_prob=RATE,
        value_discretization_interval=1e-4,
        neighboring_relation=NeighboringRelation.REPLACE_ONE,
    ).self_compose(STEPS)
    start = "The promise of 8.00 covers taking part or not; for what a record says (a changed diagnosis) it is "
    assert figure(page, start) == up_from(exchanged.get_epsilon_for_delta(DELTA))


def test_the_cross_checks_say_that_they_passed_and_by_which_rule(page: str) -> None:
    renyi, prv = re.findall(r"Cross-check passed : (\d+\.\d+) by [^.]*\. The rule: (.*?) (?=Cross-check|Taken)", page)
    assert float(renyi[0]) > 8.0
    assert renyi[1] == "it always gives more than the figure of record"
    assert abs(float(prv[0]) - 8.0) <= 0.02
    assert prv[1] == "it differs from the figure of record by at most 0.02, twice its own tolerance"


def test_a_cross_check_that_does_not_keep_its_rule_says_so() -> None:
    study = study_of()
    report = build_report(study, _summary(study), Answers(Answer(9.0), Answer(7.97)))
    assert report["accounting"]["cross_checks"][1]["passed"] is False
    assert "Cross-check NOT PASSED : 7.97 by" in text_of(render_report(report))


def test_at_a_delta_without_a_cross_check_none_is_claimed() -> None:
    study = nodes_of(privacy={"delta": 1e-12})
    report = build_report(study, _summary(study))
    check = report["accounting"]["cross_checks"][1]
    assert (check["epsilon"], check["passed"]) == (None, None)
    assert "Cross-check not made: there is no figure at so small a delta" in text_of(render_report(report))


def test_the_noise_as_run_is_in_the_json_marked_and_not_on_the_page(page: str) -> None:
    study = study_of()
    summary = _summary(study)
    report = build_report(study, summary)
    as_run = report["noise_as_run"]
    assert as_run["noise_multipliers"][0] == pytest.approx(SIGMA, abs=1e-9)
    assert "only if attendance did not depend on sums released before" in as_run["holds"]
    assert "as run" not in page
    more = {**summary, "rounds": [{**each, "survivors": list(NAMES)} for each in summary["rounds"]]}
    changed = build_report(study, more)
    assert changed["noise_as_run"]["noise_multipliers"][0] == pytest.approx(SIGMA * math.sqrt(3 / 2))
    assert f"{SIGMA * math.sqrt(3 / 2):.3f}"[:5] not in text_of(render_report(changed)).replace("0.6404 5.08", "")


def test_an_overflow_has_a_chance_in_words(page: str) -> None:
    assert "An overflow, which would spoil the model, has a probability below 1 in 10^12 over the whole study" in page
    assert 2.0**-40 < 1e-12  # what the certificate is planned for
    assert "cannot wrap" not in page


def test_how_far_one_hospital_can_move_the_model_is_computed(page: str) -> None:
    study = study_of()
    times = 3 * study.magnitude // study.privacy.grid  # a round has three survivors at least
    assert times == 683
    assert "One site can move every number by over 600 times a patient's limit: no limit in practice." in page
    assert "certificate of section" not in page
    more = study_of(privacy={**study.privacy.model_dump(), "sampling_rate": 0.2, "noise_multiplier": 2.0})
    assert 1000 <= 3 * more.magnitude // more.privacy.grid < 2000
    assert "by over a thousand times a patient's limit" in shown(more)


def test_withdrawal_needs_somebody_to_take_the_patient_out(page: str) -> None:
    assert (
        "The site must take the patient out of the file, and accept the changed file. This takes effect when the "
        "node next starts the job. What was trained, spent and published stays."
    ) in page


def test_a_budget_returns_until_the_first_round_is_booked(page: str) -> None:
    assert "Once the first round is booked, nothing of that comes back" in page
    assert "and nothing returns" not in page


def test_what_is_taken_off_delta_is_never_zero(page: str) -> None:
    assert "Taken off delta < 1e-300 for a sum of discrete Gaussians is not exactly a discrete Gaussian" in page
    assert not re.search(r"Taken off delta 0 ", page)


def test_a_budget_that_is_used_up_says_what_follows(page: str) -> None:
    assert "No further study" not in page

    def spent(summary: dict[str, Any]) -> None:
        summary["hospitals"][2] |= {"left_epsilon": 0.0}
        summary["hospitals"][3] |= {"left_delta": 0.0}

    assert "No further study on these patients can be approved: those of east , those of west ." in (
        shown(study_of(), change=spent).replace("east,", "east ,").replace("west.", "west .")
    )


# The verdict


def test_what_all_studies_came_to_stands_before_this_study(page: str) -> None:
    assert page.startswith(
        "In all studies since the budget was granted, tuning and aborted ones included, the patients of every site "
        "were promised epsilon 3.10 at delta 1e-5 together (2 studies). This study: What was published"
    )


def test_hospitals_with_different_pasts_are_told_from_least_to_most() -> None:
    def different(summary: dict[str, Any]) -> None:
        summary["hospitals"][0] |= {"reserved_epsilon": 16.0, "studies": 3}
        summary["hospitals"][1] |= {"reserved_epsilon": 8.0, "studies": 1}

    found = shown(study_of(), change=different)
    assert (
        "the patients of each site were promised from epsilon 3.10 at delta 1e-5 together (2 studies) to epsilon "
        "16.00 at delta 1e-5 together (3 studies); section 2 lists them."
    ) in found


def test_the_risk_figures_include_what_the_noise_takes_off_delta(loss: Any) -> None:
    # On a coarse grid the terms are large enough to show: T 0.1 / (sigma grid)^2.
    coarse = study_of(privacy={**study_of().privacy.model_dump(), "grid": 900})
    report = build_report(coarse, _summary(coarse))
    charged = STEPS * 0.1 / (SIGMA * 900) ** 2
    assert charged > 3e-6
    extra = report["risk"]["membership_advantage_at_most"] - loss.get_delta_for_epsilon(0.0)
    assert extra == pytest.approx(charged, rel=0.01)
