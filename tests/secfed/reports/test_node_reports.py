"""What is told of a study of nodes, on the plan, the report, the summary and by the verifier: of nodes, and true."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dp.accounting import event_epsilon, prv_epsilon, rdp_epsilon
from dp.events import Relation
from secfed.cli.closing import closing_words
from secfed.files.figures import rounded_up
from secfed.node.privacy_plan import privacy_plan
from secfed.node.sites import Site
from secfed.reports.html import render_report
from secfed.reports.privacy import build_report
from secfed.rounds.run_facts import RunKind, against_in_short
from secfed.study.account import event_of, noise_of
from secfed.verify.folder import verify_folder
from tests.secfed.federation import cut, identities, make_policy
from tests.secfed.reports.test_reports import _summary
from tests.secfed.rounds.test_node_study import EVERY, LOCAL, PRIVACY, roster, study_of
from tests.secfed.run_folders import write_run


@pytest.fixture(scope="module")
def deployed() -> dict[str, Any]:
    """The report of the study whose figure is pinned."""
    study = study_of()
    return build_report(study, _summary(study, RunKind.FEDERATION))


def test_the_report_gives_the_pinned_figure_and_two_other_methods_beside_it(deployed: dict[str, Any]) -> None:
    found = deployed["accounting"]
    assert found["epsilon"] == pytest.approx(1.99, abs=0.005)
    renyi, prv = (row["epsilon"] for row in found["cross_checks"])
    left = found["analysed_delta"]
    assert 0.999e-5 < left < 1e-5
    assert renyi == rdp_epsilon(1.0, 20.0, 100, left) > found["epsilon"]
    assert prv == prv_epsilon(1.0, 20.0, 100, left) == pytest.approx(found["epsilon"] + 0.01, abs=0.002)
    assert [row["passed"] for row in found["cross_checks"]] == [True, True]
    assert found["event"] == "100 × Gaussian noise σ = 20"
    assert "zero-out one node" in found["method"]
    assert "Poisson" not in json.dumps(found)
    assert [row["of"] for row in found["delta_terms"] if "padded batches" in row["of"]] == []
    assert len(found["delta_terms"]) == 3


def test_the_guarantee_is_for_what_a_node_contributes_and_not_for_whether_it_takes_part(
    deployed: dict[str, Any],
) -> None:
    found = deployed["guarantee"]
    assert found["sentence"] == (
        "What was published would look nearly the same if one node had contributed zero in place of what its data "
        "gives; the table in section 1 says how nearly. This holds against the public, the aggregator and the other "
        "nodes, as long as no more than one node works against the others (alone, with another, or with the "
        "aggregator), leaks its noise or leaves it out, and nobody breaks the cryptography; not counting what "
        "durations show: uploads were held back at 0 of 5 nodes."
    )
    assert "epsilon 2.00 (1.99" in found["technically"]
    assert "to zero out one node with all its data" in found["technically"]
    assert found["adjacency"] == "zero out one node"


def test_an_exchange_costs_twice_the_distance_and_no_figure_is_given_for_several_hospitals(
    deployed: dict[str, Any],
) -> None:
    study = study_of()
    exchange = event_epsilon(event_of(study), 1e-5, noise_of(study), Relation.REPLACE)
    # Twice as far at the same noise is as far at half of it.
    half = event_of(study_of(privacy={"noise_multiplier": 10.0}))
    assert exchange == pytest.approx(event_epsilon(half, 1e-5), rel=1e-3)
    assert deployed["risk"]["epsilon_replace_one"] == exchange
    assert deployed["risk"]["patient_at_several_hospitals"] == []
    limits = {row["what"]: row["why"] for row in deployed["not_protected"]}
    for what in ("Single people in a node's data", "A person who is in the data of several nodes"):
        assert rounded_up(exchange, 2) in limits[what]
    assert "attendance" in limits["That a node takes part, and when"]


def test_what_it_stands_on_names_attendance_and_no_coins(deployed: dict[str, Any]) -> None:
    rows = deployed["accounting"]["rests_on"]
    status = {row["statement"]: row["vouched_by"] for row in rows}
    assert status["No node contributes an update longer than C = 0.5"] == "tested in the code, not in this run"
    assert status["When a node takes part does not depend on what is in its data"] == "assumed"
    assert status["The unit to protect is a node with all its data"] == "said by a person"
    assert {row["said"] for row in rows if row["vouched_by"] == "said by a person"} == {"NOT SAID"}
    assert not any("coin" in assumption or "patient" in assumption for assumption in status)


def test_the_parameters_are_those_of_a_nodes_round(deployed: dict[str, Any]) -> None:
    rows = {row["name"]: row for row in deployed["parameters"]}
    assert rows["Rounds"]["value"] == "100"
    assert rows["Local steps"]["value"] == "6 in a round, of 8 records"
    assert rows["Local optimiser"]["value"] == "sgd, 0.05"
    assert "mean update" in rows["Strategy"]["meaning"]
    assert "longest update that one node may contribute" in rows["Clipping norm"]["meaning"]
    assert not {"Batches per step", "Records per drawn patient and step", "Private steps"} & rows.keys()
    assert "5 nodes × (one update × 1048576 steps" in deployed["overflow_certificate"]["sentence"]


@pytest.mark.parametrize("kind", [RunKind.FEDERATION, RunKind.SIMULATION, RunKind.DEMONSTRATION])
@pytest.mark.parametrize("changes", [{}, {"adaptive_clip": {}}])
def test_no_word_of_the_page_is_another_units(kind: RunKind, changes: dict[str, Any]) -> None:
    study = study_of(privacy=changes)
    summary = _summary(study, kind) | {"clip": 0.4 if changes else None}
    report = build_report(study, summary)
    assert len(report["risk"]["failing_nodes"]) == 5
    page = render_report(report)
    text = page[page.index("<main>") :].lower().replace("a coin for 50 %", "")
    for word in ("patient", "hospital", " site", "gradient", "coin", "added or removed", "poisson", "q n", "staff"):
        assert word not in text, word
    assert "except whether it contributed what its data gives, or zero" in text
    assert "quantile of update norms" in text or not changes


def test_the_plan_is_shown_in_words_of_nodes() -> None:
    study = study_of("fedprox")
    keys = zip(study.roster, identities(len(study.roster)), strict=True)
    sites = [Site(entry.name, key, make_policy(), {}, Path("nowhere")) for entry, key in keys]
    shown = privacy_plan(study, sites, "a model", 1.993, RunKind.FEDERATION)
    assert (
        "each node     epsilon 2.00 at delta 1e-05, as long as no more than one node works against the others" in shown
    )
    assert "6 plain local steps of 8 records by sgd in each of T = 100 rounds, nobody is drawn, clip C = 0.5" in shown
    assert "every node adds" in shown
    assert "at every node" in shown
    assert "hospital" not in shown
    assert " site" not in shown
    assert "q =" not in shown


def test_against_whom_it_holds_is_said_in_words_of_nodes() -> None:
    assert against_in_short(study_of(), RunKind.FEDERATION).startswith("as long as no more than one node works")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nodes")
    algorithm = {**EVERY["fedavg"], "rounds": 4, "physical_batch": 8, "local": LOCAL}
    privacy = {**PRIVACY, "mode": "distributed", "noise_multiplier": 4.0, "sampling_rate": 1.0}
    changes: dict[str, Any] = {"algorithm": algorithm, "privacy": privacy, "roster": roster()}
    write_run(folder / "out", folder / "work", (cut(2, 2, "masked input"),), **changes)
    return folder / "out"


def test_the_verifier_finds_that_an_honest_run_of_nodes_holds(run: Path) -> None:
    verdict = verify_folder(run)
    assert verdict.problem is None
    assert [each.kind for each in verdict.checked][-2:] == ["summary", "report"]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["unit"] == "node"
    words = closing_words(summary, run / "study.toml", run)
    assert "nodes            5 of 5 hold the same model" in words
    assert "hospitals " not in words
    assert "sites " not in words


def test_a_run_of_nodes_that_claims_another_unit_is_found(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    (tmp_path / "out" / "summary.json").write_text(json.dumps({**summary, "unit": "patient"}))
    problem = verify_folder(tmp_path / "out").problem
    assert problem is not None
    assert (problem.place, problem.reason.split()[0]) == ("summary.json", "unit")
