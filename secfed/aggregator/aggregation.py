"""Runs a study at the aggregator, from its files to the finished run's folder, over any channel and across crashes.

Before every round it asks the nodes whether they are there, so that no round is used up while the network is down.
After the last round each node hands over what the folder needs (`secfed.rounds.handover`). Started again on the same
folder, it goes on where it was (`secfed.aggregator.journal`). If its disk is full, it waits for room
(`secfed.files.full_disk`). It writes a round's number to disk before it opens the round, and a receipt before it sends
it to anybody.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from protocols.errors import ProtocolError
from protocols.wire import encode
from secfed.aggregator.coordinator import Coordinator
from secfed.aggregator.handover import HospitalEnd, read_attendance, read_handover
from secfed.aggregator.home import AggregatorHome
from secfed.aggregator.journal import Journal, Past
from secfed.aggregator.records import RoundRecord
from secfed.aggregator.results import save_adapter, write_first_state, write_results
from secfed.aggregator.summary import summarise
from secfed.errors import UserError
from secfed.files.full_disk import Room
from secfed.files.whole import READABLE, write_whole
from secfed.models.data import read_test_set, tokenise
from secfed.models.tasks import kind_of
from secfed.reports import folder as run_folder
from secfed.rounds.chain import Chain
from secfed.rounds.channel import ATTEMPTS_MAX, Channel
from secfed.rounds.deadlines import Deadlines
from secfed.rounds.events import KEEPS_OUT, Event, NodeAbsent, Note
from secfed.rounds.handover import AttendanceRequest, HandoverRequest, keeps_out
from secfed.study import account
from secfed.study.approvals import SIGNATURES, signatures_text, study_file_digest
from secfed.study.manifest import Study

if TYPE_CHECKING:
    from dp.sampling import Patients
    from secfed.models.trainers import StudyModel

GATHERING, HANDOVER = "gathering", "handover"
"""Stages of a channel in addition to the coordinator's."""
_PAUSE_SECONDS = 1.0
_Got = TypeVar("_Got")


@dataclass(frozen=True, slots=True)
class Work:
    """A study as the aggregator has loaded it."""

    study: Study
    study_file: bytes
    """The exact bytes of the file."""
    opened: StudyModel
    test_set: Patients
    epsilon_by_round: tuple[float, ...]
    out: Path
    deadlines: Deadlines
    left_out: Callable[[], frozenset[int]]
    """Gives the sites that the operator leaves out of the next round."""

    @property
    def file_digest(self) -> bytes:
        """What the nodes signed in addition to the values."""
        return study_file_digest(self.study_file)

    @property
    def packed_bytes(self) -> int:
        """The size of a packed sum."""
        return Chain(self.study, self.opened.model.layout, self.opened.first).shape.packed_bytes


def load(home: AggregatorHome, digest: bytes) -> Work:
    """Read everything that the aggregator needs for a study: for the first state, the last adapter and the summary.

    Raises:
        UserError: something is missing or not what the study says.
    """
    from secfed.models.trainers import open_study_model
    from secfed.study.base import find_base_among  # loads torch

    study = home.study(digest)
    patients = read_test_set(home.test_set(digest), kind_of(study))
    opened = open_study_model(study, find_base_among(study, home.models))
    return Work(
        study=study,
        study_file=home.study_file(digest).read_bytes(),
        opened=opened,
        test_set=tokenise(patients, opened.tokenizer, opened.model.kind),
        epsilon_by_round=account.epsilon_by_round(study),
        out=home.run(digest),
        deadlines=home.deadlines(),
        left_out=lambda: home.left_out(study),
    )


class Aggregation:
    """One study's run at the aggregator."""

    def __init__(
        self,
        work: Work,
        channel: Channel,
        show: Callable[[Event], None],
        pause: Callable[[float], None] = time.sleep,
        between_rounds: Callable[[], None] = lambda: None,
        room: Room | None = None,
    ) -> None:
        """
        Args:
            work: what `load` gave.
            channel: reaches the nodes.
            show: told what happens.
            pause: waits for so many seconds.
            between_rounds: called repeatedly while no round is open. What it raises ends the run there.
            room: waits while the disk is full. Without it a full disk ends the run.
        """
        self._work = work
        self._channel = channel
        self._show = show
        self._pause = pause
        self._between_rounds = between_rounds
        self._write = room.write if room else _at_once
        self._journal = self._write(lambda: Journal(work.out))
        self._approvals: dict[int, bytes] = {}
        self._present: set[int] = set()
        self._voids = 0
        self._tried = False
        self.records: tuple[RoundRecord, ...] = ()
        """Every round, once all are over."""

    def run(self, engine: str) -> Mapping[str, Any]:
        """Run all rounds that were not opened yet, then the closing, the handover and the results.

        Args:
            engine: what carries the messages, for the summary.

        Returns:
            The summary, as it is in the run's folder.

        Raises:
            UserError: a site did not hand over what the folder needs; run it again once the site is there.
        """
        work, model, first = self._work, self._work.opened.model, self._work.opened.first
        self._write(self._lay_out)
        before = model.measured(work.test_set)
        coordinator = Coordinator(
            work.study,
            model.layout,
            first,
            self._channel,
            show=self._show,
            keep=lambda receipt, packed: self._write(lambda: self._journal.keep(receipt, packed)),
            epsilon_by_round=work.epsilon_by_round,
            opens=self._open_round,
            closes=self._close_round,
            left_out=work.left_out,
        )
        past = self._journal.read(work.study, work.packed_bytes)
        if past.opened:
            self._show(Note(f"going on after round {past.opened} of {work.study.algorithm.rounds}"))
        self._resume(coordinator, past)
        self._voids = sum(1 for _ in itertools.takewhile(lambda record: record.void, reversed(past.records)))
        self._gather(0)
        self.records = records = tuple(coordinator.run())
        hospitals = self._take_over(coordinator)
        after = self._write(lambda: save_adapter(work.out, work.study, model, coordinator.chain, work.test_set))
        summary = summarise(
            work.study,
            work.out,
            records,
            hospitals,
            coordinator.chain,
            epsilon_by_round=work.epsilon_by_round,
            figures=(before, after),
            times=self._times(),
            engine=engine,
        )
        self._write(lambda: write_results(work.out, work.study, summary, hospitals))
        return summary

    def _resume(self, coordinator: Coordinator, past: Past) -> None:
        try:
            coordinator.resume(past.links, past.records)
        except ProtocolError as error:
            raise UserError(
                f"a receipt or a sum in {self._work.out} was changed ({error})",
                "Restore this folder from a copy; the sites have every receipt, too",
            ) from error

    def _lay_out(self) -> None:
        work = self._work
        for name in (run_folder.RECEIPTS, run_folder.SUMS, run_folder.LEDGERS):
            (work.out / name).mkdir(parents=True, exist_ok=True)
        if not (work.out / run_folder.STUDY).exists():
            write_whole(work.out / run_folder.STUDY, work.study_file, READABLE)
        if not (work.out / run_folder.FIRST_STATE).exists():
            write_first_state(work.out, work.opened.model.layout, work.opened.first)

    def _open_round(self, number: int) -> None:
        """Open a round. Once nodes stop on this state, one round for each run: no number is used up in vain."""
        if self._voids >= ATTEMPTS_MAX and self._tried:
            raise UserError(
                f"{self._voids} rounds in a row gave no receipt: nodes stop on one state of the model after "
                f"{ATTEMPTS_MAX}, until their owners allow more attempts",
                "Ask the sites what their nodes report; docs/wrong-sums.md says how to find who spoils sums. Submit "
                "the study again for one more round",
            )
        self._gather(number)
        self._write(lambda: self._journal.open_round(number))
        self._tried = True

    def _close_round(self, record: RoundRecord) -> None:
        self._write(lambda: self._journal.close_round(record))
        self._voids = self._voids + 1 if record.void else 0

    def _gather(self, number: int) -> None:
        """Wait until enough nodes for a round are there. Wait a limited time for the nodes that were there before."""
        study, patience = self._work.study, self._work.deadlines.gathering_seconds
        everybody = set(range(len(study.roster)))
        fewest = study.cohort_rules().fewest_survivors
        # All sites are waited for before round 1. A site absent then is not waited for until it connects.
        usual = self._present or everybody
        request = encode(AttendanceRequest(study.digest))
        present: dict[int, bytes] = {}
        away: set[int] = set()  # these say that they keep out: nobody has to wait for them

        def read(node: int, answer: bytes) -> bytes | None:
            if node not in away and keeps_out(study, node, answer):
                away.add(node)
                self._show(NodeAbsent(max(1, number), study.roster[node].name, GATHERING, KEEPS_OUT))
            return self._read_attendance(node, answer)

        waiting_since, told = time.monotonic(), False
        while True:
            self._between_rounds()
            present |= self._ask(everybody - set(present), request, read, number, GATHERING)
            waited, left_out = time.monotonic() - waiting_since, self._work.left_out()
            there = set(present) - left_out
            if len(there) >= fewest and (usual - left_out - away <= there or waited >= patience):
                break
            if not told and waited >= patience:
                self._show(Note(f"  waiting for sites: {len(there)} of {len(everybody)} are there, {fewest} needed"))
                told = True
            self._pause(_PAUSE_SECONDS)
        self._present = set(present)
        self._approvals |= present

    def _read_attendance(self, node: int, answer: bytes) -> bytes | None:
        return read_attendance(self._work.study, self._work.file_digest, node, answer)

    def _take_over(self, coordinator: Coordinator) -> Sequence[HospitalEnd]:
        """Every node's signature and ledger, for the run's folder.

        A node that is behind, or came after the closing, gets the last receipts first: it hands nothing over without
        them.

        Raises:
            UserError: after the deadline, naming who is missing.
        """
        study, deadline = self._work.study, time.monotonic() + self._work.deadlines.handover_seconds
        everybody, chain = set(range(len(study.roster))), coordinator.chain
        attend, end = encode(AttendanceRequest(study.digest)), encode(HandoverRequest(study.digest))
        ends: dict[int, HospitalEnd] = {}
        last = study.algorithm.rounds
        while True:
            self._between_rounds()
            missing = everybody - set(self._approvals)
            self._approvals |= self._ask(missing, attend, self._read_attendance, last, HANDOVER)
            ends |= self._ask(everybody - set(ends), end, self._read_handover, last, HANDOVER)
            absent = everybody - (set(ends) & set(self._approvals))
            reached = chain.state.digest(chain.layout)  # closing may finish a round late
            behind = {node for node, each in ends.items() if each.state != reached}
            late = time.monotonic() >= deadline
            if not absent and (late or not behind):
                break
            if late:
                names = ", ".join(study.roster[node].name for node in sorted(absent))
                raise UserError(
                    f"the rounds are over, but {names} did not hand over a valid signature and a valid ledger",
                    "Nothing is lost: submit the study again once they are there, and it goes on with this step",
                )
            if absent or behind:  # a node hands over nothing until it knows that the study is over
                coordinator.close_study()
                ends = {node: each for node, each in ends.items() if node not in behind}
            self._pause(_PAUSE_SECONDS)
        approvals = [self._approvals[node] for node in sorted(self._approvals)]
        text = signatures_text(study, self._work.study_file, approvals)
        self._write(lambda: write_whole(self._work.out / SIGNATURES, text.encode(), READABLE))
        return [ends[node] for node in sorted(ends)]

    def _read_handover(self, node: int, answer: bytes) -> HospitalEnd | None:
        return read_handover(self._work.study, node, answer)

    def _ask(
        self, nodes: set[int], request: bytes, read: Callable[[int, bytes], _Got | None], number: int, stage: str
    ) -> dict[int, _Got]:
        """The valid answers of these nodes."""
        answers = self._channel.exchange(dict.fromkeys(sorted(nodes), request), round_number=number, stage=stage)
        found = {node: read(node, answer) for node, answer in answers.items()}
        return {node: got for node, got in found.items() if got is not None}

    def _times(self) -> tuple[datetime, datetime, float]:
        """From when the run's folder was laid out until now, restarts included."""
        now = datetime.now(UTC)
        started = datetime.fromtimestamp((self._work.out / run_folder.FIRST_STATE).stat().st_mtime, UTC)
        return started, now, (now - started).total_seconds()


def _at_once(act: Callable[[], _Got]) -> _Got:
    return act()
