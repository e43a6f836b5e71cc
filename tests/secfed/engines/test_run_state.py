"""A run's log is bounded and says what is new, and its state file says who answered, who did not, and since when."""

from __future__ import annotations

from pathlib import Path

import pytest

from secfed.engines.flare import progress
from secfed.engines.flare.progress import END, RunLog, read_log, starts_in_vain
from secfed.engines.flare.run_state import RunState, read_state
from secfed.errors import UserError
from secfed.rounds.events import NodeAbsent, Note, RoundClosed, RoundOpened

ONE, OTHER = "lakeside-hospital", "harbour-clinic"


def state(run: Path) -> RunState:
    found = read_state(run)
    assert found is not None
    return found


def exchange(log: RunLog, number: int, stage: str, *answers: str) -> None:
    log.asks([ONE, OTHER], number, stage, 60.0)
    for name in answers:
        log.answered(name)
    log.waited()


def test_a_log_of_thousands_of_rounds_and_starts_is_bounded_and_keeps_what_came_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "FILE_BYTES", 20_000)
    log = RunLog(tmp_path / "run")
    for number in range(1, 1001):
        log.show(RoundClosed(number, 4, 4, 1.0, 1.0))
    for start in range(10):
        log.start(f"job {start}")
    log.end("stopped", "no base model " + "x" * 50_000)
    assert sum(path.stat().st_size for path in tmp_path.glob("*.progress.jsonl*")) <= 60_000
    events = list(read_log(tmp_path / "run"))
    assert events[-1]["event"] == END
    assert starts_in_vain(events) == 10
    numbers = [event["number"] for event in events]
    assert numbers == list(range(numbers[0], 1012))


def test_a_reader_gets_each_event_once_and_also_those_of_a_job_that_goes_on(tmp_path: Path) -> None:
    RunLog(tmp_path / "run").start("first")
    seen = [event["number"] for event in read_log(tmp_path / "run")]
    RunLog(tmp_path / "run").start("second")
    assert [event["job"] for event in read_log(tmp_path / "run", seen[-1])] == ["second"]


def test_a_line_that_a_crash_cut_short_costs_no_other(tmp_path: Path) -> None:
    RunLog(tmp_path / "run").start("first")
    path = tmp_path / "run.progress.jsonl"
    with path.open("a") as file:
        file.write('{"number": 2, "event": "no')
    RunLog(tmp_path / "run").start("second")
    assert [event["job"] for event in read_log(tmp_path / "run")] == ["first", "second"]


def test_no_run_ends_because_its_log_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    log = RunLog(tmp_path / "runs" / "run")
    log.start("job")
    exchange(log, 1, "gathering", ONE)
    log.end("completed", "state 00")


def test_the_state_names_who_is_waited_for_and_since_when_a_site_is_silent(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run")
    log.start("job")
    exchange(log, 1, "gathering", ONE, OTHER)
    log.show(RoundOpened(1, 8))
    log.asks([ONE, OTHER], 1, "share", 60.0)
    log.answered(ONE)
    doing = state(tmp_path / "run").doing
    assert doing is not None
    assert (doing.stage, doing.waits_for, doing.is_over) == ("share", (OTHER,), False)
    log.waited()
    exchange(log, 2, "gathering", ONE)
    silent = state(tmp_path / "run").sites[OTHER].silent
    assert silent is not None
    assert (silent.round, silent.stage) == (1, "share"), "since the first request that it did not answer"
    exchange(log, 2, "gathering", ONE, OTHER)
    assert state(tmp_path / "run").sites[OTHER].silent is None


def test_who_keeps_out_answers_openings_and_is_in_again_once_it_shares(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run")
    log.start("job")
    for number in (1, 2):
        exchange(log, number, "advertise", ONE, OTHER)
        log.show(NodeAbsent(number, OTHER, "advertise", "left out by the operator"))
    out = state(tmp_path / "run").sites[OTHER].out
    assert out is not None
    assert (out.round, out.reason) == (1, "left out by the operator")
    exchange(log, 3, "advertise", ONE, OTHER)
    exchange(log, 3, "share", ONE, OTHER)
    assert state(tmp_path / "run").sites[OTHER].out is None


def test_a_job_that_goes_on_counts_its_own_rounds_and_remembers_who_was_silent(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run")
    log.start("first")
    exchange(log, 1, "share", ONE)
    log.show(RoundOpened(1, 8))
    log.show(RoundClosed(1, 3, 4, 1.0, 1.0))
    log.end("aborted", "the job was aborted")
    log = RunLog(tmp_path / "run")
    log.start("second")
    log.show(Note("going on after round 1 of 8"))
    found = state(tmp_path / "run")
    assert (found.job, found.rounds, found.done, found.done_before, found.ended) == ("second", 8, 1, 1, None)
    assert found.sites[OTHER].silent is not None
    assert found.note == "going on after round 1 of 8"


def test_a_state_that_cannot_be_read_is_said_to_be_so(tmp_path: Path) -> None:
    assert read_state(tmp_path / "run") is None
    (tmp_path / "run.state.json").write_text("{")
    with pytest.raises(UserError, match="cannot read"):
        read_state(tmp_path / "run")
