"""A mind that changes during a study: a policy that is tightened, a study that is paused, a disk that fills up."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from crypto.randomness import NoiseSecret
from protocols.errors import WrongSession
from protocols.messages import Advertise
from protocols.wire import encode, message_type
from secfed import cli
from secfed.errors import UserError
from secfed.node.answers import answer_of
from secfed.node.consent import Consent, KeepsOut
from secfed.node.home import Home
from secfed.node.node import Node
from secfed.node.policy import PacePolicy, Policy
from secfed.rounds.channel import RoundOpening, Standing
from secfed.rounds.events import KEEPS_OUT, NodeAbsent
from secfed.rounds.handover import Attendance, AttendanceRequest, keeps_out
from secfed.rounds.strategies import ModelState
from tests.homes import Hospitals, approve_at, make_hospitals
from tests.secfed.federation import Federation, FormulaTrainer, make_policy, make_study

OUT = "the node takes no part in the study's rounds for now"
AGAIN = "the node takes part in the study's rounds again"


class Owner:
    """The first hospital's, in a federation: what is allowed, and whether the study is paused."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.policy = make_policy()
        self.file = federation.folder / "policy.toml"
        node = federation.nodes[0]
        self.digest, self.store = federation.study.digest, node.parts.store
        self.changes(self.policy)
        consent = Consent(
            federation.folder,
            self.file,
            unchanged=lambda: None,
            paused=partial(self.store.paused, self.digest),
            allows=self._allows,
        )
        federation.nodes[0] = Node(federation.study, node.parts, tell_owner=federation.keep_told, consent=consent)

    def _allows(self) -> Policy:
        self.policy.check(self.federation.study, "hospital-0")
        return self.policy

    def changes(self, policy: Policy) -> None:
        self.policy = policy
        self.file.write_text(policy.model_dump_json())

    def allows_nothing(self) -> None:
        self.changes(self.policy.model_copy(update={"allow": self.policy.allow.model_copy(update={"base_models": ()})}))

    def told(self) -> list[str]:
        return [text for name, text in self.federation.told if name == "hospital-0"]


class Interrupted(FormulaTrainer):
    """Its owner does something while it trains, in this round."""

    in_round: int
    then: Callable[[], object]

    def contribute(
        self, state: ModelState, round_number: int, secret: NoiseSecret, progress: Callable[[int], None]
    ) -> NDArray[np.int64]:
        if round_number == self.in_round:
            self.then()
        return super().contribute(state, round_number, secret, progress)


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(make_study(), tmp_path)


def interrupt(federation: Federation, then: Callable[[], object], at: int, in_round: int = 2) -> None:
    """Have this done while a node trains."""
    trainer = Interrupted(federation.study, at)
    trainer.in_round, trainer.then = in_round, then
    node = federation.nodes[at]
    node.parts = replace(node.parts, trainer=trainer)


def absences(federation: Federation) -> list[NodeAbsent]:
    return [event for event in federation.events if isinstance(event, NodeAbsent)]


@pytest.mark.parametrize("how", ["paused", "tightened"])
def test_rounds_go_on_without_a_node_whose_owner_keeps_it_out_and_with_it_later(
    federation: Federation, how: str
) -> None:
    """From the next round on; the spend stays; the owner is told once; the aggregator learns that it does not join."""
    owner, allowing = Owner(federation), make_policy()

    def begin() -> None:
        if how == "paused":
            owner.store.pause(owner.digest, "2026-11-30")
        else:
            owner.allows_nothing()

    def end() -> None:
        if how == "paused":
            owner.store.resume(owner.digest)
        else:
            owner.changes(allowing)

    interrupt(federation, begin, at=4)  # the last to train: round 2 of the first hospital has left already
    interrupt(federation, end, at=3, in_round=4)
    _, records = federation.run()
    assert ["hospital-0" in each.survivors for each in records] == [True, True, False, False]
    assert not any(each.void for each in records)
    ledger = federation.nodes[0].parts.ledger
    assert [ledger.holds("commit", owner.digest, number) for number in range(1, 5)] == [True, True, False, False]
    assert federation.trainers[0].trained == [1, 2]
    kept_out = [text for text in owner.told() if OUT in text]
    assert len(kept_out) == 1
    assert ("paused" if how == "paused" else "does not allow this study's base model") in kept_out[0]
    assert {(each.round_number, each.reason) for each in absences(federation)} == {(3, KEEPS_OUT), (4, KEEPS_OUT)}
    assert len(federation.states()) == 1, "it follows the chain"
    node = federation.nodes[0]
    node.check_ready()
    assert owner.told()[-1] == AGAIN


@pytest.mark.parametrize("how", ["paused", "tightened", "other rules"])
def test_nothing_is_spent_and_nothing_leaves_where_a_mind_changes_while_a_node_trains(
    federation: Federation, how: str
) -> None:
    owner = Owner(federation)
    stricter = make_policy()
    stricter = stricter.model_copy(update={"cohort": stricter.cohort.model_copy(update={"minimum": 4})})
    changes: dict[str, Callable[[], object]] = {
        "paused": lambda: owner.store.pause(owner.digest, "2026-11-30"),
        "tightened": owner.allows_nothing,
        "other rules": lambda: owner.changes(stricter),
    }
    interrupt(federation, changes[how], at=0)
    _, records = federation.run()
    ledger = federation.nodes[0].parts.ledger
    assert records[0].survivors == tuple(entry.name for entry in federation.study.roster)
    assert "hospital-0" not in records[1].survivors
    assert not records[1].void
    assert not ledger.holds("commit", owner.digest, 2)
    assert ("hospital-0" in records[2].survivors) == (how == "other rules"), "its next round goes by the new rules"


@pytest.mark.parametrize("asked", ["whether it is there", "for a round of another state"])
def test_an_aggregator_cannot_have_a_session_go_on_under_rules_that_its_owner_changed(
    federation: Federation, asked: str
) -> None:
    """In mid-round it asks what has the node take up its owner's policy: the session stays one of the old rules."""
    owner, node = Owner(federation), federation.nodes[0]
    stricter = make_policy()
    stricter = stricter.model_copy(update={"cohort": stricter.cohort.model_copy(update={"minimum": 5})})

    def change() -> None:
        owner.changes(stricter)
        if asked == "whether it is there":
            answer_of(node, bytes(64), encode(AttendanceRequest(owner.digest)))
            return
        other = replace(node.chain.context(3).opening(), state=bytes(32))
        with pytest.raises(WrongSession):
            node.handle(encode(RoundOpening((), other)))

    interrupt(federation, change, at=0)
    _, records = federation.run()
    assert node.parts.policy == stricter
    assert "hospital-0" not in records[1].survivors
    assert not node.parts.ledger.holds("commit", owner.digest, 2)


def test_a_policy_that_changes_and_still_allows_counts_without_a_word(federation: Federation) -> None:
    owner = Owner(federation)
    pace = PacePolicy(upload_after_seconds=0.0, session_ends_after_seconds=77.0)
    interrupt(federation, lambda: owner.changes(make_policy().model_copy(update={"pace": pace})), at=4)
    _, records = federation.run()
    assert all("hospital-0" in each.survivors for each in records)
    assert federation.nodes[0].parts.policy.pace.session_ends_after_seconds == 77.0
    assert owner.told() == []


def test_a_policy_that_is_half_written_or_gone_allows_nothing(federation: Federation) -> None:
    owner, node = Owner(federation), federation.nodes[0]
    node.check_ready()
    owner.file.unlink()
    with pytest.raises(KeepsOut, match="cannot be read"):
        node.check_ready()

    def unreadable() -> Policy:
        raise UserError("policy.toml: it ends in the middle of a line", "Mend it")

    owner.changes(make_policy())
    node._consent = Consent(federation.folder, owner.file, unchanged=lambda: None, paused=lambda: "", allows=unreadable)
    with pytest.raises(KeepsOut, match="ends in the middle"):
        node.check_ready()


def test_a_round_is_not_joined_without_room_for_what_it_writes(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would be spent, and its sum could not be signed."""
    owner, node = Owner(federation), federation.nodes[0]
    usage = shutil.disk_usage(federation.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    answer = node.handle(opening(node))
    assert message_type(answer, 10_000, 0) == Standing.TYPE
    assert node.parts.store.floor(owner.digest) == 0
    assert "is nearly full, and a round needs" in owner.told()[-1]
    monkeypatch.undo()
    assert message_type(node.handle(opening(node)), 10_000, 0) == Advertise.TYPE
    assert owner.told()[-1] == AGAIN


def opening(node: Node, number: int = 1) -> bytes:
    return encode(RoundOpening((), node.chain.context(number).opening()))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Hospitals:
    hospitals = make_hospitals(tmp_path_factory.mktemp("hospitals"), base)
    approve_at(hospitals.homes[0], hospitals.study_path)
    return hospitals


@pytest.fixture
def home(pristine: Hospitals, tmp_path: Path) -> Home:
    """The first hospital's home, for one test."""
    shutil.copytree(pristine.homes[0].path, tmp_path / "home")
    return Home.open(tmp_path / "home")


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code, and all that a command prints."""
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["secfed", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    code = ended.value.code
    return (code if isinstance(code, int) else 0), "".join(capsys.readouterr())


def test_a_running_node_sees_the_pause_and_the_policy_of_its_home(
    pristine: Hospitals, home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digest, told = pristine.study.digest, list[str]()
    name, file = digest.hex()[:16], home.path / "policy.toml"
    with home.open_node(digest, tell_owner=lambda _, text: told.append(text)) as node:
        code, printed = command(monkeypatch, capsys, "node", "pause", name, "--home", home.path)
        assert (code, "What was spent stays spent" in printed) == (0, True)
        for _ in range(3):
            assert message_type(node.handle(opening(node)), 10_000, 0) == Standing.TYPE
        assert sum(OUT in text for text in told) == 1
        code, printed = command(monkeypatch, capsys, "node", "resume", name, "--home", home.path, "--json")
        assert json.loads(printed)["was_paused"] is True
        node.check_ready()
        honest = file.read_text()
        file.write_text(honest.replace("base_models = [", "base_models = [] # "))
        with pytest.raises(KeepsOut, match="does not allow this study's base model"):
            node.check_ready()
        file.write_text(honest.replace("epsilon = ", "epsilon = 1", 1))
        with pytest.raises(KeepsOut, match="ledger and the policy do not agree"):
            node.check_ready()
        file.write_text(honest + "\n[texts]\ncut_at_most = 0.0\n")
        with pytest.raises(KeepsOut, match="and are truncated, but its policy allows"):
            node.check_ready()
        file.write_text(honest)
        assert message_type(node.handle(opening(node)), 10_000, 0) == Advertise.TYPE


def test_a_pause_outlives_the_process_and_is_shown(
    pristine: Hospitals, home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = pristine.study.digest
    _, printed = command(monkeypatch, capsys, "node", "pause", digest.hex()[:16], "--home", home.path, "--json")
    since = json.loads(printed)["paused"]
    with home.open_node(digest) as node, pytest.raises(KeepsOut, match="paused the study"):
        node.check_ready()
    _, printed = command(monkeypatch, capsys, "node", "status", "--home", home.path)
    assert f"PAUSED by its owner since {since[:10]}" in printed
    _, printed = command(monkeypatch, capsys, "node", "status", "--home", home.path, "--json")
    assert json.loads(printed)["studies"][0]["paused"] == since
    _, printed = command(monkeypatch, capsys, "doctor", "--home", home.path)
    assert f"paused by its owner since {since}" in printed
    assert f"`secfed node resume {digest.hex()[:16]}`" in printed
    _, printed = command(monkeypatch, capsys, "node", "pause", digest.hex()[:16], "--home", home.path, "--json")
    assert json.loads(printed)["paused"] == since


def test_what_is_not_approved_or_over_is_not_paused(
    pristine: Hospitals, home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed = command(monkeypatch, capsys, "node", "pause", "ab" * 32, "--home", home.path)
    assert (code, printed.count("\n")) == (2, 1)
    command(monkeypatch, capsys, "node", "withdraw", pristine.study.digest.hex(), "--yes", "--home", home.path)
    code, printed = command(monkeypatch, capsys, "node", "pause", pristine.study.digest.hex(), "--home", home.path)
    assert code == 2
    assert "is over or was withdrawn here" in printed


def test_a_paused_node_hands_over_its_approval_once_the_study_is_over(federation: Federation) -> None:
    """It joins nothing more then; without it the study would have no end for anybody."""
    pytest.importorskip("nvflare")
    from secfed.node.answers import answer_of

    owner, node = Owner(federation), federation.nodes[0]
    asked = encode(AttendanceRequest(owner.digest))
    interrupt(federation, lambda: owner.store.pause(owner.digest, "2026-11-30"), at=4)
    interrupt(federation, lambda: during.append(answer_of(node, bytes(64), asked)), at=3, in_round=4)
    during: list[bytes] = []
    federation.run()
    assert [message_type(each, 10_000, 0) for each in during] == [Standing.TYPE]
    assert message_type(answer_of(node, bytes(64), asked), 10_000, 0) == Attendance.TYPE


def test_a_node_that_keeps_out_says_so_before_it_has_the_receipt_of_what_it_signed(federation: Federation) -> None:
    """An offer in its place would have the aggregator wait for it, as for one that is to come."""
    pytest.importorskip("nvflare")
    from secfed.node.answers import answer_of

    owner, node = Owner(federation), federation.nodes[0]
    coordinator, answers = federation.coordinator(), list[bytes]()

    def between_rounds(_: object) -> None:
        if not answers:
            owner.store.pause(owner.digest, "2026-11-30")
            answers.append(answer_of(node, bytes(64), encode(AttendanceRequest(owner.digest))))

    coordinator._closes = between_rounds
    coordinator.run()
    assert [keeps_out(federation.study, 0, answer) for answer in answers] == [True]
