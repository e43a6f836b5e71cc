"""The status of a study says what is so: from a run's state, the server's word, and either of them alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from secfed.engines.flare.connections import ConnectionsFile, read_connections
from secfed.engines.flare.progress import RunLog
from secfed.engines.flare.run_state import read_state
from secfed.engines.flare.status import Connections, JobSeen, SiteStatus, StudyStatus, ages, lines_of, study_status
from secfed.rounds.events import KEEPS_OUT, LEFT_OUT, NodeAbsent, Note, RoundClosed, RoundFailed, RoundOpened

ONE, TWO, GONE = ROSTER = ("harbour-clinic", "lakeside-hospital", "quiet-hospital")
EVERYBODY = Connections(dict.fromkeys(ROSTER, 3.0), frozenset(ROSTER))
RUNNING = JobSeen("job", "RUNNING", False)


class Run:
    """A run's log and state, and what is said of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "run"
        self.log = RunLog(self.folder)
        self.log.start("job")

    def asks(self, number: int, stage: str, *answers: str, over: bool = True) -> None:
        self.log.asks(ROSTER, number, stage, 60.0)
        for name in answers:
            self.log.answered(name)
        if over:
            self.log.waited()

    def status(
        self,
        *jobs: JobSeen,
        connections: Connections = EVERYBODY,
        later: float = 0.0,
        late: bool = False,
        no_room: bool = False,
    ) -> StudyStatus:
        now = datetime.now(UTC) + timedelta(seconds=later)
        found = read_state(self.folder)
        return study_status(
            "00" * 32, "study", ROSTER, found, jobs, connections, late_come_in=late, no_room=no_room, now=now
        )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def site(status: StudyStatus, name: str) -> SiteStatus:
    (found,) = (each for each in status.sites if each.name == name)
    return found


def test_a_run_waits_for_those_who_have_not_answered_a_stage_yet(run: Run) -> None:
    run.asks(1, "gathering", *ROSTER)
    run.log.show(RoundOpened(1, 8))
    run.asks(1, "masked input", ONE, TWO, over=False)
    status = run.status(RUNNING, later=40.0)
    assert (status.state, status.missing) == ("running", (GONE,))
    assert "masked input of round 1 from quiet-hospital, since 40 s" in status.waits_for
    assert [each.state for each in status.sites] == ["takes part", "takes part", "asked"]
    assert (status.rounds, status.rounds_over, status.rounds_of_job) == (8, 0, 0)


def test_a_site_that_is_connected_and_silent_is_named_with_its_round_and_where_the_reason_is(run: Run) -> None:
    run.asks(1, "gathering", *ROSTER)
    run.asks(3, "share", ONE, TWO)
    run.asks(4, "gathering", ONE, TWO)
    found = site(run.status(RUNNING, later=90.0), GONE)
    assert (found.state, found.since_round, found.connected) == ("silent", 3, True)
    assert "silent since round 3 (share), 90 s ago; the reason is in its owner's node.log" in found.text


@pytest.mark.parametrize(
    "connections",
    [
        Connections({ONE: 3.0, TWO: 3.0, GONE: 8.0}, frozenset({ONE, TWO})),
        Connections({ONE: 3.0, TWO: 3.0, GONE: 200.0}, None),
        Connections({ONE: 3.0, TWO: 3.0}, None),
    ],
    ids=["its connection ended", "not heard from", "forgotten"],
)
@pytest.mark.parametrize("answered", [True, False])
def test_a_site_that_was_killed_is_neither_connected_nor_taking_part(
    run: Run, connections: Connections, answered: bool
) -> None:
    run.asks(2, "masked input", *(ROSTER if answered else (ONE, TWO)), over=False)
    found = site(run.status(RUNNING, connections=connections), GONE)
    assert (found.connected, found.state) == (False, "not connected")
    assert found.text.startswith("not connected" if GONE not in connections.heard else "last heard from")


@pytest.mark.parametrize(
    ("reason", "state"), [(KEEPS_OUT, "refuses"), (LEFT_OUT, "left out"), ("a wrong share: says one", "out")]
)
def test_a_site_that_answers_and_is_out_says_why(run: Run, reason: str, state: str) -> None:
    run.asks(2, "advertise", *ROSTER)
    run.log.show(NodeAbsent(2, GONE, "advertise", reason))
    found = site(run.status(RUNNING), GONE)
    assert (found.state, found.since_round) == (state, 2)
    assert reason in found.text
    run.asks(3, "share", *ROSTER)
    assert site(run.status(RUNNING), GONE).state == "takes part"


def test_too_few_sites_are_told_with_who_is_missing(run: Run) -> None:
    run.asks(0, "gathering", ONE)
    run.log.show(Note("  waiting for sites: 1 of 3 are there, 2 needed"))
    status = run.status(RUNNING)
    assert status.missing == (TWO, GONE)
    assert "an attendance answer before round 1 from lakeside-hospital, quiet-hospital" in status.waits_for
    assert "1 of 3 are there, 2 needed" in status.waits_for
    assert status.rounds is None


def test_the_handover_names_who_owes_it(run: Run) -> None:
    run.asks(8, "handover", ONE, TWO)
    status = run.status(RUNNING)
    assert (status.missing, status.waits_for) == ((GONE,), "signature and ledger from quiet-hospital")


def test_a_completed_study_is_not_running_whatever_the_server_says(run: Run) -> None:
    run.log.show(RoundOpened(8, 8))
    run.log.show(RoundClosed(8, 3, 3, 1.0, 1.0))
    run.log.end("completed", "state 00")
    others = JobSeen("job", "FINISHED:COMPLETED", True), JobSeen("again", "SUBMITTED", False)
    for job in (RUNNING, *others):
        status = run.status(job)
        assert (status.state, status.waits_for, status.rounds_over) == ("completed", "", 8)
    assert not any("sites" in line for line in lines_of(status))


@pytest.mark.parametrize("how", ["stopped", "failed", "aborted"])
def test_a_job_that_ended_by_its_own_word_is_not_running(run: Run, how: str) -> None:
    run.asks(3, "share", *ROSTER)
    run.log.end(how, "the reason")
    status = run.status(RUNNING)
    assert (status.state, status.text, status.waits_for) == (how, "the reason", "")
    assert {each.state for each in status.sites} == {"not running"}


def test_a_site_that_never_came_is_not_connected_after_the_end_either(run: Run) -> None:
    run.asks(8, "handover", ONE, TWO)
    run.log.end("stopped", "it did not hand over")
    found = site(run.status(RUNNING, connections=Connections({ONE: 3.0, TWO: 3.0})), GONE)
    assert (found.connected, found.state) == (False, "not connected")


def test_a_job_that_the_server_aborted_in_mid_round_is_aborted_even_without_a_word_of_its_own(run: Run) -> None:
    run.asks(3, "share", ONE, over=False)
    status = run.status(JobSeen("job", "FINISHED:ABORTED", True))
    assert (status.state, status.waits_for) == ("aborted", "")
    assert "takes part" not in {each.state for each in status.sites}


def test_the_next_job_of_an_aborted_study_is_the_one_that_counts(run: Run) -> None:
    run.log.show(RoundClosed(1, 3, 3, 1.0, 1.0))
    run.log.end("aborted", "the job was aborted")
    over = JobSeen("job", "FINISHED:ABORTED", True)
    assert run.status(JobSeen("next", "SUBMITTED", False), over).state == "submitted"
    assert run.status(JobSeen("next", "RUNNING", False), over).state == "starting"
    run.log = RunLog(run.folder)
    run.log.start("next")
    run.log.show(RoundOpened(2, 8))
    run.log.show(RoundFailed(2, "too few"))
    status = run.status(JobSeen("next", "RUNNING", False), over)
    assert (status.state, status.job, status.rounds_over, status.rounds_of_job) == ("running", "next", 2, 1)


def test_a_job_without_an_end_was_cut_short_and_the_next_step_is_named(run: Run) -> None:
    run.asks(3, "share", *ROSTER)
    status = run.status(JobSeen("job", "FINISHED:ABANDONED", True))
    assert status.state == "cut short"
    assert "resubmits the study by itself" in status.text
    assert run.status().state == "cut short"
    assert "submit the study again" in run.status().text


def test_a_run_that_says_nothing_long_after_a_deadline_is_told(run: Run) -> None:
    run.asks(3, "share", ONE, over=False)
    assert run.status(RUNNING, later=70.0).text == ""
    assert "look at the server's log" in run.status(RUNNING, later=600.0).text


def test_late_sites_that_come_in_are_told(run: Run) -> None:
    run.asks(3, "share", *ROSTER)
    assert "late sites join" in run.status(RUNNING, late=True).waits_for


def test_a_run_that_waits_for_room_on_its_disk_says_so_and_waits_for_no_site(run: Run) -> None:
    run.asks(1, "masked input", ONE)
    status = run.status(RUNNING, later=3600.0, no_room=True)
    assert (status.state, status.text, status.missing) == ("running", "", ())
    assert "free space on the disk" in status.waits_for


def test_a_second_job_that_was_never_started_does_not_count(run: Run) -> None:
    second = JobSeen("second", "FINISHED:ABANDONED", True)
    assert run.status(second, RUNNING).job == RUNNING.id
    run.log.end("stopped", "three rounds came to nothing")
    status = run.status(second, JobSeen("job", "FINISHED:COMPLETED", True))
    assert (status.state, status.text) == ("stopped", "three rounds came to nothing")


def test_what_only_the_aggregators_folder_knows_is_said_to_be_missing_on_another_machine() -> None:
    status = study_status("00" * 32, "", ROSTER, None, [RUNNING], Connections({ONE: 3.0, GONE: 60.0}))
    assert (status.state, status.rounds, status.rounds_over, status.waits_for) == ("running", None, None, "")
    assert [each.state for each in status.sites] == ["unknown", "not connected", "not connected"]
    assert any("not known here" in line for line in lines_of(status))
    assert "takes part" not in "\n".join(lines_of(status))


def test_ages_are_right_where_the_clocks_of_server_and_desk_differ() -> None:
    assert ages({ONE: 100.0, TWO: 92.0}, 101.0) == {ONE: 1.0, TWO: 9.0}
    assert ages({ONE: 3700.0, TWO: 3692.0}, 101.0) == {ONE: 0.0, TWO: 8.0}, "the desk is an hour behind"
    assert ages({ONE: 100.0, TWO: 92.0}, 3701.0) == {ONE: 0.0, TWO: 8.0}, "the desk is an hour ahead"
    assert ages({}, 101.0) == {}


def test_open_connections_are_written_down_for_whoever_asks(tmp_path: Path) -> None:
    assert read_connections(tmp_path) is None
    connections = ConnectionsFile(tmp_path)
    connections.put(frozenset({ONE, TWO}))
    assert read_connections(tmp_path) == {ONE, TWO}
    connections.put(frozenset())
    assert read_connections(tmp_path) == frozenset()
    ConnectionsFile(tmp_path / "nowhere").put(frozenset({ONE}))
    (tmp_path / "connected.json").write_text("{")
    assert read_connections(tmp_path) is None
