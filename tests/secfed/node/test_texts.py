"""What a model cannot read is counted on a site's own records, shown to its owner, and refused, before a spend."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from secfed.errors import UserError
from secfed.models.data import Record, tokenise
from secfed.models.model import load_tokenizer
from secfed.node.approve import approval_screen, examine
from secfed.node.data_change import accept_data
from secfed.node.home import Home
from secfed.node.texts import TextFigures, measure, told
from tests.homes import Hospitals, approve_at, make_hospitals
from tests.tiny import VOCABULARY, classifying, make_tiny_base

READABLE = [Record("fracture of the bone", 0), Record("acute pain", 1)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(make_tiny_base(tmp_path_factory.mktemp("base")), VOCABULARY)


def test_records_that_the_model_reads_have_nothing_unknown(tokenizer: Any) -> None:
    assert measure({"a": READABLE}, tokenizer, classifying(8)) == TextFigures(
        records=2, tokens=6, unknown=0, unreadable=0, cut=0
    )


def test_unknown_tokens_and_records_that_say_nothing_are_counted(tokenizer: Any) -> None:
    found = measure({"a": READABLE, "b": [Record("боль", 0), Record("acute боль", 0)]}, tokenizer, classifying(8))
    assert found == TextFigures(records=4, tokens=9, unknown=2, unreadable=1, cut=0)
    assert found.unknown_share == 2 / 9
    assert found.unreadable_share == 1 / 4


def test_a_record_that_fits_to_the_last_token_is_not_cut_and_one_more_token_is(tokenizer: Any) -> None:
    fits, cut = Record("fracture of the bone", 0), Record("fracture of the left bone", 0)  # and two special tokens
    found = measure({"a": [fits, cut]}, tokenizer, classifying(6))
    assert (found.cut, found.cut_share) == (1, 0.5)


def test_what_is_counted_is_what_the_model_is_given(tokenizer: Any) -> None:
    """A record without a readable token within the length, whatever comes after it."""
    found = measure({"a": [Record("боль " * 20 + "bone", 0)]}, tokenizer, classifying(6))
    given = (
        tokenise({"a": [Record("боль " * 20 + "bone", 0)]}, tokenizer, classifying(6)).inputs["input_ids"][0].tolist()
    )
    assert tokenizer.convert_ids_to_tokens(given)[1:-1] == ["[UNK]"] * 4
    assert found.unreadable == 1


def test_some_is_never_told_as_none_and_the_worst_site_is_named() -> None:
    good, bad = TextFigures(10_000, 10_000, 0, 0, 0), TextFigures(10_000, 10_000, 1, 200, 10_000)
    assert told({"one": good}) == (
        "0.0 % tokens unknown to this model; 0.0 % records without any known token; 0.0 % records longer than the "
        "model reads, so truncated"
    )
    assert told({"one": good, "two": bad}).startswith("at most less than 0.1 % tokens unknown to this model (two); ")
    assert replace(bad, unknown=0, tokens=0).unknown_share == 0


@pytest.fixture
def hospitals(tmp_path: Path, base: Path) -> Hospitals:
    return make_hospitals(tmp_path, base)


def foreign(home: Home) -> None:
    """Half of the records in a script that the model does not know."""
    path = Path(home.node.dataset(None).file)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records[::2]:
        record["text"] = "перелом левой кости"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_the_owner_is_shown_the_figures_and_refused_above_the_bound_that_the_policy_moves(hospitals: Hospitals) -> None:
    home = hospitals.homes[0]
    candidate = examine(home, hospitals.study_path, None)
    assert f"\n  its texts     {100 * candidate.texts.unknown_share:.1f} % tokens" in approval_screen(candidate)
    foreign(home)
    with pytest.raises(UserError, match=r"records have no token|tokens are unknown") as refused:
        examine(home, hospitals.study_path, None)
    assert "texts." in refused.value.next_step
    assert not (home.path / "ledger.sqlite").exists()
    with (home.path / "policy.toml").open("a") as file:
        file.write("\n[texts]\nunknown_at_most = 0.6\nunreadable_at_most = 0.6\n")
    assert examine(home, hospitals.study_path, None).texts.unreadable_share == pytest.approx(0.5, abs=0.01)


def test_a_node_whose_data_became_unreadable_after_the_approval_does_not_begin(hospitals: Hospitals) -> None:
    home = hospitals.homes[0]
    approve_at(home, hospitals.study_path)
    foreign(home)
    accept_data(home, "letters")
    with pytest.raises(UserError, match=r"its policy allows"), home.open_node(hospitals.study.digest):
        pass
