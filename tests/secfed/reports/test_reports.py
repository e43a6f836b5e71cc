"""The privacy budget report: its facts, its page and its picture."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from audits.simulator.studies import study_from, study_values
from crypto.identity import Identity
from dp.delta_terms import LocalNoise
from dp.events import NoisedSums
from secfed.errors import UserError
from secfed.files.figures import rounded_up
from secfed.reports.html import render_report, write_report
from secfed.reports.privacy import build_report
from secfed.reports.risk import Training, assess
from secfed.rounds.run_facts import RunKind, coordinators_word
from secfed.study.manifest import Study

NAMES = ["north", "south", "east"]
SIGMA = 0.9639
EPSILONS = [1.0, 1.5, 1.9]
SVG = "{http://www.w3.org/2000/svg}"


def _study(**changes: Any) -> Study:
    roster = [
        {"name": name, "identity": Identity(bytes([index] * 32)).public.raw.hex(), "patients": 100 * index}
        for index, name in enumerate(NAMES, start=1)
    ]
    values = study_values(
        roster,
        name="small-study",
        purpose="A test of the report",
        model={"digest": "sha256:" + "0" * 64, "max_length": 16},
        lora={"layers": [0, 1]},
        algorithm={"rounds": 3, "local": {"steps": 4, "learning_rate": 0.01}},
        privacy={"epsilon": 3.0, "noise_multiplier": SIGMA, "sampling_rate": 0.02},
        cohort={"colluders": 0, "minimum": 2},
    )
    return study_from({**values, **changes})


def _round(number: int) -> dict[str, Any]:
    dropped = [{"name": "south", "stage": "masked_input"}] if number == 2 else []
    return {
        "number": number,
        "attempt_void": False,
        "cohort": NAMES,
        "survivors": ["north", "east"] if dropped else NAMES,
        "dropped": dropped,
        "quorum": 2,
        "seconds": 60,
        "bytes_up": {"north": 1200, "south": 900, "east": 1300},
        "bytes_down": {"north": 100, "south": 100, "east": 100},
        "ring_bits": 26,
        "dimension": 100,
        "sum_digest": f"{number:02x}" * 32,
        "receipt_digest": "",
        "faults": [],
    }


def _summary(
    study: Study, kind: RunKind = RunKind.SIMULATION, held_back: int = 0, engine: str = "an engine"
) -> dict[str, Any]:
    names = [entry.name for entry in study.roster]
    return {
        "study": study.name,
        "study_digest": study.digest.hex(),
        "adapter_digest": "sha256:" + "a" * 64,
        "engine": engine,
        "how_it_ran": {
            "kind": kind.value,
            "on_one_machine": [] if kind is RunKind.FEDERATION else [names],
            "held_back": held_back,
            "nodes": [{"name": name, "engines": ["an engine"], "hold_back_seconds": 0} for name in names],
        },
        "coordinators_word": coordinators_word(study),
        "mode": study.privacy.mode,
        "unit": "patient",
        "against": "",
        "clip": None,
        "accuracy_before": 0.05,
        "accuracy_after": 0.5,
        "seconds": 120,
        "hospitals": [
            {
                "name": name,
                "index": index,
                "patients_nominal": 100 * (index + 1),
                "epsilon": 3.0,
                "delta": 1e-5,
                "budget_epsilon": 8.0,
                "budget_delta": 3e-5,
                "budget_since": "2025-11-01T09Z",
                "population": f"patients of {name}",
                "disjoint": "",
                "studies": 2,
                "reserved_epsilon": 3.1,
                "reserved_delta": 1e-5,
                "spent_epsilon": 3.0,
                "spent_delta": 1e-5,
                "left_epsilon": 4.9,
                "left_delta": 2e-5,
                "rounds_committed": 3,
                "rounds_released": 3,
                "ledger_sequence": 8,
                "ledger_head": f"{index + 200:02x}" * 32,
                "noise_multiplier": SIGMA,
                "epsilon_by_round": EPSILONS,
            }
            for index, name in enumerate(NAMES)
        ],
        "rounds": [_round(number) for number in (1, 2, 3)],
        "versions": {"secfed": "0.1.0"},
        "started": "2026-01-01T10:00:00+00:00",
        "finished": "2026-01-01T10:02:00+00:00",
    }


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    study = _study()
    return build_report(study, _summary(study))


@pytest.fixture
def page(report: dict[str, Any]) -> str:
    return render_report(report)


# The facts


def test_the_guarantee_names_epsilon_delta_unit_adjacency_and_against_whom(report: dict[str, Any]) -> None:
    technically, sentence = report["guarantee"]["technically"], report["guarantee"]["sentence"]
    for words in ("epsilon 0.", "delta 1e-5", "add or remove one patient with all records"):
        assert words in technically
    assert "would look nearly the same without any one patient" in sentence
    assert "against anybody who sees what the study published" in sentence


def test_local_mode_runs_full_batches_and_the_report_says_how_many_and_what_that_takes_off_delta(
    report: dict[str, Any],
) -> None:
    rows = {row["symbol"]: row for row in report["parameters"]}
    study = _study()
    assert [study.mechanism.plan(index).batches for index in range(3)] == [1, 1, 2]
    assert rows["K"]["value"] == "1 to 2, by the site's nominal size"
    assert "always exactly this many" in rows["K"]["meaning"]
    (term,) = report["accounting"]["delta_terms"]
    assert "padded batches" in term["of"]
    assert term["delta_at_most"] == 3 * 4 * 2.0**-40


def test_a_simulation_makes_no_claim_against_an_aggregator_and_says_so(report: dict[str, Any]) -> None:
    assert report["run"]["kind"] == "simulation"
    assert report["guarantee"]["note"].startswith("SIMULATION: one process held every party's data. Nothing is claimed")
    assert "aggregator" not in report["guarantee"]["against"]
    assert report["not_protected"][0]["what"] == "Anything, from whoever ran this process"


def test_a_run_on_many_machines_claims_protection_against_all_other_parties() -> None:
    study = _study()
    report = build_report(study, _summary(study, RunKind.FEDERATION))
    assert report["run"]["kind"] == "federation"
    assert "all other sites together" in report["guarantee"]["against"]
    assert "simulation" not in json.dumps([report["guarantee"], report["not_protected"]])


def test_a_demonstration_on_one_machine_claims_nothing_against_whoever_ran_it() -> None:
    study = _study()
    report = build_report(study, _summary(study, RunKind.DEMONSTRATION, engine="NVIDIA FLARE"))
    assert report["guarantee"]["note"].startswith("DEMONSTRATION: all parties ran on one machine")
    assert report["not_protected"][0]["what"] == "Anything, from whoever ran one machine"
    assert "aggregator" not in report["guarantee"]["against"]
    assert not any("machine of its own" in row["statement"] for row in report["accounting"]["rests_on"])
    page = " ".join(render_report(report).split())
    assert "DEMONSTRATION: all parties ran on one machine" in page


def test_some_hospitals_on_one_machine_are_named() -> None:
    study = _study()
    summary = _summary(study, RunKind.FEDERATION, engine="NVIDIA FLARE")
    summary["how_it_ran"]["on_one_machine"] = [["north", "east"]]
    told = build_report(study, summary)["not_protected"][0]
    assert (told["what"], "It ran north, east" in told["why"]) == ("Anything, from whoever ran one machine", True)


def test_the_accounted_epsilon_is_that_of_the_signed_noise_whatever_the_summary_says() -> None:
    study = _study()
    summary = _summary(study)
    expected = assess(Training(NoisedSums(0.02, SIGMA, 12), 1e-5, LocalNoise())).epsilon
    summary["hospitals"][1]["noise_multiplier"] = 5.0
    assert build_report(study, summary)["guarantee"]["epsilon_accounted"] == expected


def test_what_all_studies_of_a_population_come_to_is_told(report: dict[str, Any]) -> None:
    assert {each["reserved_epsilon"] for each in report["hospitals"]} == {3.1}
    assert {each["reserved_delta"] for each in report["hospitals"]} == {1e-5}


def test_the_certificate_against_wrapping_can_be_recomputed_from_its_own_figures(report: dict[str, Any]) -> None:
    certificate = report["overflow_certificate"]
    assert certificate["largest_input"] == 300 * 2**16  # the largest weight times 0.25 in steps of 2^-18
    worst = certificate["roster_size"] * certificate["largest_input"] + certificate["noise_tail"]
    assert worst == certificate["worst_sum"] < certificate["half_ring"]
    assert str(certificate["worst_sum"]) in certificate["sentence"]


def test_what_is_not_protected_is_generated_from_the_study(report: dict[str, Any]) -> None:
    text = json.dumps(report["not_protected"], ensure_ascii=False)
    assert "model" in text
    assert rounded_up(report["risk"]["patient_at_several_hospitals"][1]["epsilon"], 2) in text
    other = _study(model={**_study().model.model_dump(), "base": "other"})
    changed = json.dumps(build_report(other, _summary(other))["not_protected"], ensure_ascii=False)
    assert "other" in changed


def test_all_digests_are_in_the_evidence_and_empty_ones_are_not(report: dict[str, Any]) -> None:
    digests = [row["digest"] for row in report["evidence"]]
    assert all(digests)
    assert _study().digest.hex() in digests
    assert "sha256:" + "a" * 64 in digests
    assert "02" * 32 in digests
    assert len(digests) == 3 + 3 + 3


def test_no_verdict_is_given_on_the_readers_behalf(page: str) -> None:
    for word in ("compliant", "compliance", "safe", "anonymous", "GDPR", "HIPAA"):
        assert word.lower() not in page[page.index("<body>") :].lower()


# The page


class _Page(HTMLParser):
    """Tags, attributes, and whether every element is closed in order."""

    VOID = frozenset({"meta", "br", "hr", "img", "input", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_fetches_and_runs_nothing(page: str) -> None:
    parsed = _Page(page)
    assert parsed.open == []
    assert not {"script", "link", "img", "iframe", "object", "embed", "form", "base"} & set(parsed.tags)
    assert not {"src", "href", "srcset", "action"} & {name for _, name, _ in parsed.attributes}
    assert not [name for _, name, _ in parsed.attributes if name.startswith("on")]
    assert "url(" not in page
    assert "@import" not in page
    assert re.findall(r"https?://[^\"' <]+", page) == ["http://www.w3.org/2000/svg"]


def test_tables_and_picture_are_readable_without_seeing_them(page: str) -> None:
    parsed = _Page(page)
    scopes = [value for tag, name, value in parsed.attributes if tag == "th" and name == "scope"]
    assert len(scopes) == parsed.tags.count("th")
    assert set(scopes) == {"col", "row"}
    ids = [value for _, name, value in parsed.attributes if name == "id"]
    assert len(set(ids)) == len(ids)
    labelled = next(value for tag, name, value in parsed.attributes if (tag, name) == ("svg", "aria-labelledby"))
    assert labelled is not None
    assert set(labelled.split()) <= set(ids)
    assert ("html", "lang", "en") in parsed.attributes


def test_every_hospital_round_and_dropout_is_on_the_page(page: str, report: dict[str, Any]) -> None:
    for name in NAMES:
        assert name in page
    assert "south (masked input)" in page
    assert page.count(">completed<") == 3
    for row in report["evidence"]:
        assert row["digest"] in page


def test_a_void_round_is_shown_as_void(report: dict[str, Any]) -> None:
    changed = copy.deepcopy(report)
    changed["rounds"][1] |= {"attempt_void": True, "survivors": [], "bytes_up": {}, "bytes_down": {}}
    page = render_report(changed)
    assert page.count(">void<") == 1
    assert page.count(">completed<") == 2


def test_text_from_the_study_cannot_become_markup() -> None:
    study = _study(purpose='<script>alert(1)</script> & "quotes"', task={"labels": ["<b>", "</b>"]})
    summary = _summary(study, engine="<img src=x>")
    summary["hospitals"][0] |= {"name": "<i>north</i>", "epsilon_by_round": [1.0, 1.0, 1.5]}
    page = render_report(build_report(study, summary))
    assert not {"script", "img", "i", "b"} & set(_Page(page).tags)
    assert "&lt;script&gt;" in page


def test_both_files_are_written_and_the_json_is_the_whole_report(report: dict[str, Any], tmp_path: Path) -> None:
    write_report(tmp_path, report)
    assert json.loads((tmp_path / "report.json").read_text("utf-8")) == report
    assert (tmp_path / "report.html").read_text("utf-8") == render_report(report)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_a_folder_that_is_not_there_is_named(report: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be written to .*missing"):
        write_report(tmp_path / "missing", report)
