"""The commands by which owners and operator find who spoils sums, and how the study ends without it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nvflare")

from protocols import sharing
from protocols.errors import ProtocolError
from protocols.messages import MaskedInput
from protocols.wire import decode, encode, fields_of
from secfed import cli
from secfed.aggregator.aggregation import Aggregation, load
from secfed.aggregator.home import SETTINGS, AggregatorHome
from secfed.engines.embedded.channel import ENGINE
from secfed.errors import UserError
from secfed.node.answers import answer_of
from secfed.node.attempts import stopped_at
from secfed.node.node import Node
from secfed.node.store import NodeStore
from secfed.rounds.events import Event, RoundClosed
from secfed.verify.folder import verify_folder
from tests.homes import SMALL, Hospitals, approve_at, make_hospitals
from tests.secfed.aggregator.test_wrong_sums import BOTH, CULPRIT, another_tag


@dataclass
class Sites:
    """Nodes in this process, as a channel; one of them uploads another tag."""

    nodes: Mapping[int, tuple[Node, bytes]]
    spoils: int

    def exchange(self, requests: Mapping[int, bytes], *, round_number: int, stage: str) -> Mapping[int, bytes]:
        answers = {}
        for index, request in requests.items():
            try:
                answers[index] = answer_of(*self.nodes[index], request)
            except ProtocolError:
                continue
        spoiled = answers.get(self.spoils) if stage == "masked input" else None
        if spoiled:
            node = self.nodes[self.spoils][0]
            message = decode(MaskedInput, spoiled, node.chain.limits, self.spoils)
            changed = MaskedInput(**{**fields_of(message), **another_tag(message)})
            answers[self.spoils] = encode(sharing.sign(changed, node.parts.identity))
        return {index: answer for index, answer in answers.items() if answer}


@dataclass
class Study:
    """A study of eight rounds in homes, with its people at their command lines."""

    home: AggregatorHome
    hospitals: Hospitals
    sites: Sites
    console: Callable[..., str]
    told: list[tuple[str, str]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def submit(self) -> Mapping[str, Any]:
        work = load(self.home, self.hospitals.study.digest)
        return Aggregation(work, self.sites, self.events.append, lambda seconds: None).run(ENGINE)

    def leave_out(self, *names: str) -> Mapping[str, Any]:
        at = ("--aggregator", str(self.home.path), "--json")
        return dict(json.loads(self.console("federation", "leave-out", str(self.hospitals.study_path), *names, *at)))

    def allow(self, index: int, more: int) -> Mapping[str, Any]:
        """The owner's command, in a program of its own as far as the store can tell."""
        beginning, at = self.hospitals.study.digest.hex()[:12], ("--home", str(self.hospitals.homes[index].path))
        arguments = ("node", "allow-attempts", beginning, "--more", str(more), *at, "--json")
        return dict(json.loads(self.console(*arguments)))


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["secfed", *arguments])
        with pytest.raises(SystemExit) as ending:
            cli.main()
        captured = capsys.readouterr()
        assert not ending.value.code, captured.err
        return captured.out

    return run


@pytest.fixture
def study(tmp_path: Path, base: Path, console: Callable[..., str]) -> Iterator[Study]:
    hospitals = make_hospitals(tmp_path, base, replace(SMALL, steps=8))
    home = AggregatorHome(tmp_path / "aggregator")
    home.add(hospitals.study_path)
    (home.path / SETTINGS).write_text("[deadlines]\ngathering_seconds = 0\nhandover_seconds = 0\n")
    digest, told = hospitals.study.digest, []
    with ExitStack() as stack:
        nodes = {}
        for index, each in enumerate(hospitals.homes):
            approve_at(each, hospitals.study_path)
            node = stack.enter_context(each.open_node(digest, tell_owner=lambda name, text: told.append((name, text))))
            nodes[index] = (node, each.approval(digest))
        yield Study(home, hospitals, Sites(nodes, CULPRIT), console, told)


@pytest.mark.sweep
def test_the_culprit_is_found_by_who_was_in_and_the_study_ends_without_it(study: Study) -> None:
    names = [each.name for each in study.hospitals.homes]
    with pytest.raises(UserError, match=r"3 rounds in a row gave no receipt"):
        study.submit()
    assert {name for name, text in study.told if BOTH in text and "allow-attempts" in text} == set(names)
    for index in range(len(names)):
        assert study.allow(index, 3)["allowed_on_this_state"] == 3
    for number, suspect in enumerate((names[0], names[1]), start=4):
        assert study.leave_out(suspect)["left_out"] == [suspect]
        with pytest.raises(UserError, match=rf"{number} rounds in a row"):
            study.submit()
    status = json.loads(study.console("node", "status", "--home", str(study.hospitals.homes[2].path), "--json"))
    (kept,) = status["studies"]
    assert (kept["stopped"], kept["more_attempts"], kept["committed"]) == (False, 3, 5)
    study.leave_out(names[CULPRIT])
    summary = study.submit()
    assert [each["attempt_void"] for each in summary["rounds"]] == [True] * 5 + [False] * 3
    assert [event.round_number for event in study.events if isinstance(event, RoundClosed)] == [6, 7, 8]
    assert all(names[CULPRIT] not in each["survivors"] for each in summary["rounds"])
    assert {each["state_digest"] for each in summary["hospitals"]} == {summary["state_digest"]}
    folder = study.home.run(study.hospitals.study.digest)
    assert verify_folder(folder).problem is None
    (row,) = [
        row for row in json.loads((folder / "report.json").read_text())["not_protected"] if "rounds 1" in row["what"]
    ]
    assert "rounds 1 to 6" in row["what"]
    assert "6 rounds started from one state" in row["why"]


def test_a_stopped_node_says_so_in_its_status(study: Study) -> None:
    with pytest.raises(UserError):
        study.submit()
    text = study.console("node", "status", "--home", str(study.hospitals.homes[0].path))
    assert "STOPPED after repeated failed rounds" in text
    with NodeStore(study.hospitals.homes[0].path / "node.sqlite") as store:
        assert stopped_at(store, study.hospitals.study.digest) is not None


@pytest.mark.sweep
def test_the_study_is_submitted_for_one_more_round_at_a_time(study: Study) -> None:
    for number in (3, 4):
        with pytest.raises(UserError, match=rf"{number} rounds in a row"):
            study.submit()
    study.sites.spoils = -1
    for index in range(5):
        study.allow(index, 1)
    summary = study.submit()
    assert [each["attempt_void"] for each in summary["rounds"]] == [True] * 4 + [False] * 4


def test_a_store_that_cannot_be_read_is_said_and_is_no_reason_to_show_nothing(study: Study) -> None:
    home = study.hospitals.homes[0]
    study.sites.nodes[0][0].parts.store.close()
    for path in home.path.glob("node.sqlite*"):
        path.write_bytes(b"no database")
    assert "node.sqlite cannot be read: run `secfed doctor`" in study.console(
        "node", "status", "--home", str(home.path)
    )
