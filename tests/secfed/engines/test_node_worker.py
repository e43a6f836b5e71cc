"""A node's thread: nothing that goes wrong ends it, and where it ends nevertheless its process does, too."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("nvflare")

from nvflare.utils.process_utils import ProcessAdapter

from dp.errors import LedgerUnavailable
from protocols.client import State
from protocols.wire import encode
from secfed.engines.flare import sessions
from secfed.engines.flare.launcher import KeptAlive
from secfed.engines.flare.sessions import with_new_sessions
from secfed.engines.flare.worker import DIED, NodeWorker
from secfed.node.node import Node
from secfed.node.owners_log import LEVEL, OwnersLog, RoundLines
from secfed.node.pace import OWNERS_LOG
from secfed.rounds.handover import AttendanceRequest
from tests.secfed.federation import Federation, make_study


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Federation(make_study(), tmp_path).nodes[0]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secfed.engines.flare.worker.OPENING_PAUSE_SECONDS", 0.01)


@contextmanager
def running(
    node: Node, tell: Callable[[str], None] = lambda text: None, opens: Callable[[], None] = lambda: None
) -> Iterator[tuple[NodeWorker, list[int]]]:
    """A worker, and the exit codes with which it ended its process."""

    @contextmanager
    def open_node() -> Iterator[Node]:
        opens()
        yield node

    ended: list[int] = []
    worker = NodeWorker(open_node, lambda: bytes(64), tell, end_process=ended.append)
    worker.start()
    try:
        yield worker, ended
    finally:
        worker.stop(5.0)


def until(holds: Callable[[], Any]) -> None:
    end = threading.Event()
    for _ in range(1000):
        if holds():
            return
        end.wait(0.01)
    raise TimeoutError


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("not even this")


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), Unspeakable(), MemoryError(), RecursionError(), ValueError("x")]
)
@pytest.mark.parametrize("where", ["at the opening", "in an answer"])
def test_a_node_goes_on_after_any_error_though_its_owner_cannot_be_told(
    node: Node, monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    """The log's own failure, on the same full disk, has killed the thread before."""
    failing = [error]

    def fails(*_: object) -> bytes:
        if failing:
            raise failing.pop()
        return b"fine"

    def full(text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(node, "handle", fails if where == "in an answer" else lambda request: b"fine")
    with running(node, full, fails if where == "at the opening" else lambda: None) as (worker, ended):
        until(lambda: worker.ask(b"x" * 500) == b"fine")
        assert ended == []


@pytest.mark.parametrize("error", [sqlite3.OperationalError("database or disk is full"), OSError(5, "I/O error")])
def test_a_node_whose_disk_failed_is_opened_anew(node: Node, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    failing, opened = [error, LedgerUnavailable("full")], list[int]()

    def fails(request: bytes) -> bytes:
        if failing:
            raise failing.pop()
        return b"fine"

    monkeypatch.setattr(node, "handle", fails)
    with running(node, opens=lambda: opened.append(1)) as (worker, _):
        until(lambda: worker.ask(b"x" * 500) == b"fine")
    assert len(opened) == 3


@pytest.mark.parametrize("error", [SystemExit(0), KeyboardInterrupt(), GeneratorExit()])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_process_whose_nodes_thread_has_ended_ends_with_a_code_that_starts_it_again(
    node: Node, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    told: list[str] = []

    def dies(request: bytes) -> bytes:
        raise error

    monkeypatch.setattr(node, "handle", dies)
    with running(node, told.append) as (worker, ended):
        until(lambda: worker.most_request_bytes)
        assert worker.ask(b"x" * 500) == b""
        until(lambda: ended)
        assert ended == [DIED]
        assert not worker.most_request_bytes
        assert "its process ends as well" in told[-1]


def test_a_node_that_is_told_to_end_does_not_end_its_process(node: Node) -> None:
    with running(node) as (worker, ended):
        until(lambda: worker.most_request_bytes)
        assert worker.ask(encode(AttendanceRequest(node.study.digest)))
        worker.stop(5.0)
    assert ended == []


class Ended(ProcessAdapter):  # type: ignore[misc]
    """A process that has ended with this code."""

    def __init__(self, code: int) -> None:
        self.code = code

    def wait(self) -> None:
        pass

    def poll(self) -> int:
        return self.code

    def terminate(self) -> None:
        pass


def test_a_process_is_started_again_though_its_first_starts_fail_and_nothing_can_be_written(tmp_path: Path) -> None:
    """A dead node's exit code is none of those that end a job here."""
    codes: list[Any] = [DIED, OSError(12, "Cannot allocate memory"), OSError(28, "No space left on device"), 0]

    def start() -> ProcessAdapter:
        code = codes.pop(0)
        if isinstance(code, OSError):
            raise code
        return Ended(code)

    kept = KeptAlive(start, tmp_path / "a folder that is not there", lambda seconds: None, lambda text: None)
    kept.wait()
    assert codes == []
    assert kept.poll() == 0


def client(name: str, token: str) -> Any:
    return SimpleNamespace(name=name, token=token)


def test_a_job_goes_on_with_the_present_sessions_of_its_sites_and_takes_in_nobody() -> None:
    first, second = client("first", "1"), client("second", "2")
    job = {"1": first, "2": second}
    assert with_new_sessions(job, [first, second, client("stranger", "3")]) is None
    assert with_new_sessions(job, [second]) is None, "one that is away may come back"
    again = client("first", "4")
    assert with_new_sessions(job, [again, second]) == {"4": again, "2": second}


def test_a_jobs_process_asks_for_its_sites_once_in_a_while_when_it_meets_a_strange_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Agent:
        engine: Any

        def _get_client(self, token: str) -> Any:
            return self.engine.client_manager.clients.get(token)

    asked: list[str] = []
    manager = SimpleNamespace(clients={"1": client("first", "1")})
    manager.set_clients = lambda clients: setattr(manager, "clients", clients)

    def retrieve(job: str) -> Any:
        asked.append(job)
        return {"2": client("first", "2")}

    monkeypatch.setattr(sessions, "ServerCommandAgent", Agent)
    sessions.follow_sessions()
    sessions.follow_sessions()
    agent = Agent()
    agent.engine = SimpleNamespace(
        args=SimpleNamespace(job_id="job"), client_manager=manager, _retrieve_clients_data=retrieve
    )
    assert agent._get_client("1").token == "1"
    assert asked == []
    assert agent._get_client("2").token == "2"
    assert [agent._get_client(f"made up {number}") for number in range(100)] == [None] * 100
    assert asked == ["job"], "whoever makes up tokens makes no work for the server"


def test_an_owner_reads_one_line_a_round() -> None:
    told: list[str] = []
    lines = RoundLines(told.append)
    lines.answered(None, 9.0)
    for state, seconds in ((State.ADVERTISED, 0.1), (State.SHARED, 0.2), (State.MASKED, 41.0), (State.CLOSED, 0.3)):
        lines.answered((1, state), seconds)
    lines.answered((1, State.CLOSED), 0.1)  # asked once more
    lines.answered((2, State.MASKED), 40.0)
    lines.answered((2, State.FAILED), 0.0)
    lines.answered((3, State.SHARED), 0.5)
    lines.end()
    lines.end()
    assert told == [
        "round 1: took part, 41.00 s",
        "round 2: took part, 40.00 s, but signed no sum",
        "round 3: joined, but uploaded nothing",
    ]


def test_answers_are_written_down_where_the_owner_wants_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = OwnersLog(tmp_path)
    log.debug("answered in 0.300 s")
    log("round 1: took part, 41.00 s")
    monkeypatch.setenv(LEVEL, "debug")
    OwnersLog(tmp_path).debug("answered in 0.400 s")
    lines = (tmp_path / OWNERS_LOG).read_text().splitlines()
    assert [line.partition(" ")[2] for line in lines] == ["round 1: took part, 41.00 s", "answered in 0.400 s"]


def test_what_cannot_be_written_goes_to_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    OwnersLog(tmp_path / "gone")("the disk is full")
    assert capsys.readouterr().err.endswith(" the disk is full\n")
