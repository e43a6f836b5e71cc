"""The aggregator's whole run over nodes in homes of their own, without FLARE: absences, crashes, and late sites."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from protocols.errors import ProtocolError
from protocols.wire import encode
from secfed.aggregator.aggregation import GATHERING, HANDOVER, Aggregation, load
from secfed.aggregator.home import SETTINGS, AggregatorHome
from secfed.engines.embedded.channel import ENGINE
from secfed.errors import UserError
from secfed.node.answers import answer_of
from secfed.node.node import Node
from secfed.rounds.channel import Standing
from secfed.rounds.events import KEEPS_OUT, Event, NodeAbsent, Note, RoundClosed
from secfed.verify.folder import verify_folder
from tests.homes import Hospitals, approve_at, make_hospitals
from tests.tiny import make_tiny_base

DEADLINES = "[deadlines]\ngathering_seconds = 0\nhandover_seconds = 0\n"


class SitesWait(Exception):
    """Sites have come that the channel does not reach."""


class Crashed(BaseException):
    """The process is gone: nothing catches this."""


@dataclass
class Sites:
    """Nodes in this process, as a channel. Those that are away answer nothing."""

    nodes: Mapping[int, tuple[Node, bytes]]
    """With each its owner's approval."""
    away: set[int] = field(default_factory=set)
    comes_at: tuple[int, str] | None = None
    """A node that is away, and the stage at which it is there again."""
    keeps_out: set[int] = field(default_factory=set)
    """Those say that they are there, and take no part for now."""
    stops_at: tuple[int, str] | None = None
    """A round, and the stage before which the aggregator crashes."""

    def exchange(self, requests: Mapping[int, bytes], *, round_number: int, stage: str) -> Mapping[int, bytes]:
        if (round_number, stage) == self.stops_at:
            raise Crashed
        if self.comes_at is not None and self.comes_at[1] == stage:
            self.away.discard(self.comes_at[0])
        answers = {}
        for index in set(requests) - self.away:
            if index in self.keeps_out and stage in (GATHERING, "advertise"):
                chain = self.nodes[index][0].chain
                answers[index] = encode(Standing(index, chain.round_number, chain.state.digest(chain.layout)))
                continue
            try:
                answers[index] = answer_of(*self.nodes[index], requests[index])
            except ProtocolError:
                continue
        return {index: answer for index, answer in answers.items() if answer}


@dataclass
class Study:
    """A study of five hospitals and two rounds, ready to run, as often as a test likes."""

    home: AggregatorHome
    hospitals: Hospitals
    sites: Sites
    events: list[Event] = field(default_factory=list)

    @property
    def digest(self) -> bytes:
        return self.hospitals.study.digest

    def run(self, sites_wait: Callable[[], bool] = lambda: False) -> Mapping[str, object]:
        def let_in() -> None:
            if sites_wait():
                raise SitesWait

        work = load(self.home, self.digest)
        return Aggregation(work, self.sites, self.events.append, lambda seconds: None, let_in).run(ENGINE)

    def closed(self) -> list[int]:
        return [event.round_number for event in self.events if isinstance(event, RoundClosed)]

    def check(self, summary: Mapping[str, object]) -> None:
        """Everything that the run left holds, and everybody has the same model."""
        assert verify_folder(self.home.run(self.digest)).problem is None
        assert {each["state_digest"] for each in summary["hospitals"]} == {summary["state_digest"]}  # type: ignore[attr-defined]


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    hospitals = make_hospitals(tmp_path, make_tiny_base(tmp_path / "base"))
    home = AggregatorHome(tmp_path / "aggregator")
    home.add(hospitals.study_path)
    (home.path / SETTINGS).write_text(DEADLINES)
    digest = hospitals.study.digest
    with ExitStack() as stack:
        nodes = {}
        for index, each in enumerate(hospitals.homes):
            approve_at(each, hospitals.study_path)
            nodes[index] = (stack.enter_context(each.open_node(digest)), each.approval(digest))
        yield Study(home, hospitals, Sites(nodes))


@pytest.mark.sweep
def test_an_aggregator_that_crashed_goes_on_after_its_last_receipt(study: Study) -> None:
    study.sites.stops_at = (2, "masked input")
    with pytest.raises(Crashed):
        study.run()
    study.sites.stops_at = None
    summary = study.run()
    study.check(summary)
    assert any(isinstance(event, Note) and "going on after round 2 of 2" in event.text for event in study.events)
    assert [each["attempt_void"] for each in summary["rounds"]] == [False, True]  # type: ignore[attr-defined]


def test_who_is_away_at_the_end_is_named_and_nothing_is_lost(study: Study) -> None:
    study.sites.away = {3}
    with pytest.raises(UserError, match=study.hospitals.homes[3].name):
        study.run()
    assert study.closed() == [1, 2]
    study.sites.away = set()
    study.check(study.run())
    assert study.closed() == [1, 2], "no round is run twice"


def test_a_site_that_comes_late_is_let_in_between_two_rounds(study: Study) -> None:
    study.sites.away = {3}
    with pytest.raises(SitesWait):
        study.run(sites_wait=lambda: study.closed() == [1])
    study.sites.away = set()
    summary = study.run()
    study.check(summary)
    name = study.hospitals.homes[3].name
    assert [name in each["survivors"] for each in summary["rounds"]] == [False, True]  # type: ignore[attr-defined]
    assert not any(each["attempt_void"] for each in summary["rounds"]), "no round is spent on it"  # type: ignore[attr-defined]


def test_nobody_waits_for_a_site_that_keeps_out_by_its_own_word_and_it_is_told(study: Study) -> None:
    (study.home.path / SETTINGS).write_text(DEADLINES.replace("gathering_seconds = 0", "gathering_seconds = 3600"))
    study.sites.keeps_out = {3}
    study.check(study.run())
    name = study.hospitals.homes[3].name
    absences = [event for event in study.events if isinstance(event, NodeAbsent) and event.stage == GATHERING]
    assert {(event.node, event.reason) for event in absences} == {(name, KEEPS_OUT)}
    assert [event.round_number for event in absences] == [1, 1, 2], "once before each round"
    assert study.closed() == [1, 2]


def test_a_site_that_comes_after_the_last_round_is_let_in_for_the_handover(study: Study) -> None:
    study.sites.away = {3}
    with pytest.raises(SitesWait):
        study.run(sites_wait=lambda: study.closed() == [1, 2])
    study.sites.stops_at = (2, HANDOVER)
    with pytest.raises(Crashed):
        study.run()
    study.sites.away, study.sites.stops_at = set(), None
    study.check(study.run())


def test_a_node_that_is_back_for_the_handover_alone_still_gets_the_last_model(study: Study) -> None:
    (study.home.path / SETTINGS).write_text(DEADLINES.replace("handover_seconds = 0", "handover_seconds = 60"))
    study.sites.away, study.sites.comes_at = {3}, (3, HANDOVER)
    study.check(study.run())
