"""The parts of the FLARE engine, without processes: what they pass on, what they drop, and what they start again."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("nvflare")

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import AdminCommandNames, FLMetaKey, ReturnCode
from nvflare.apis.fl_exception import UnsafeComponentError
from nvflare.apis.job_launcher_spec import JobReturnCode
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.app_common.np.np_trainer import NPTrainer
from nvflare.app_common.widgets.component_path_authorizer import ComponentPathAuthorizer
from nvflare.fuel.common.exit_codes import ProcessExitCode
from nvflare.fuel.sec.authz import AuthzContext, Person
from nvflare.private.defs import SysCommandTopic
from nvflare.security.security import FLAuthorizer
from nvflare.utils.process_utils import ProcessAdapter

from protocols.wire import encode
from secfed.aggregator.handover import read_attendance
from secfed.engines.flare.channel import FlareChannel, StudyAborted
from secfed.engines.flare.envelope import answer_of, read_answer, read_request, request_of
from secfed.engines.flare.executor import NodeExecutor
from secfed.engines.flare.keeper import LateSites
from secfed.engines.flare.kits import OPERATOR, ROLE, Federation, make_kits
from secfed.engines.flare.launcher import KeptAlive
from secfed.engines.flare.progress import RunLog, read_log
from secfed.engines.flare.served import OF_A_JOB, OF_A_SITE
from secfed.engines.flare.settings import EXECUTOR, job_name, study_digest, study_of_job
from secfed.engines.flare.worker import NodeWorker
from secfed.node.home import VARIABLE, Home
from secfed.node.node import Node
from secfed.node.pace import OWNERS_LOG
from secfed.rounds.deadlines import Deadlines
from secfed.rounds.events import RoundClosed
from secfed.rounds.handover import AttendanceRequest, HandoverRequest
from secfed.study.approvals import study_file_digest
from tests.secfed.federation import Federation as Hospitals
from tests.secfed.federation import make_study

FILE = study_file_digest(b"the study's file")


@pytest.fixture
def hospitals(tmp_path: Path) -> Hospitals:
    return Hospitals(make_study(), tmp_path)


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_kits(Federation("loopback", "localhost", 8002, ("one", "two")), tmp_path_factory.mktemp("f") / "kits")


class Owner:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def __call__(self, text: str) -> None:
        self.told.append(text)


@contextmanager
def opened(node: Node) -> Iterator[Node]:
    yield node


def worker_of(node: Node, owner: Owner) -> NodeWorker:
    """A worker whose node is open. The node's database is used on this thread alone: requests here need none."""
    worker = NodeWorker(lambda: opened(node), lambda: node.approve(FILE), owner)
    worker.start()
    while not worker.most_request_bytes:
        threading.Event().wait(0.01)
    return worker


def test_a_node_attends_with_a_signature_that_holds_for_this_very_file(hospitals: Hospitals) -> None:
    node, study = hospitals.nodes[0], hospitals.study
    worker = worker_of(node, Owner())
    answer = worker.ask(encode(AttendanceRequest(study.digest)))
    assert read_attendance(study, FILE, 0, answer) == node.approve(FILE)
    assert read_attendance(study, study_file_digest(b"another file"), 0, answer) is None
    assert read_attendance(study, FILE, 1, answer) is None
    worker.stop(5.0)


def test_a_request_about_another_study_gets_silence(hospitals: Hospitals) -> None:
    worker = worker_of(hospitals.nodes[0], Owner())
    assert worker.ask(encode(AttendanceRequest(bytes(32)))) == b""
    assert worker.ask(encode(HandoverRequest(bytes(32)))) == b""
    worker.stop(5.0)


def test_what_goes_wrong_is_told_to_the_owner_and_answered_with_silence(
    hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, node = Owner(), hospitals.nodes[0]

    def fails(request: bytes) -> bytes:
        raise RuntimeError("patient 17 has a text of 3 words")

    monkeypatch.setattr(node, "handle", fails)
    worker = worker_of(node, owner)
    assert worker.ask(b"x" * 500) == b""
    assert any("patient 17" in text for text in owner.told)
    worker.stop(5.0)


def test_a_second_request_meanwhile_gets_silence_at_once(hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch) -> None:
    node, training, done = hospitals.nodes[0], threading.Event(), threading.Event()

    def slow(request: bytes) -> bytes:
        training.set()
        assert done.wait(30.0)
        return b"trained"

    monkeypatch.setattr(node, "handle", slow)
    worker = worker_of(node, Owner())
    answers: list[bytes] = []
    asking = threading.Thread(target=lambda: answers.append(worker.ask(b"x" * 500)))
    asking.start()
    assert training.wait(30.0)
    assert worker.ask(encode(AttendanceRequest(hospitals.study.digest))) == b""
    done.set()
    asking.join(30.0)
    assert answers == [b"trained"]
    worker.stop(5.0)


def test_a_node_that_does_not_open_is_tried_again(hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secfed.engines.flare.worker.OPENING_PAUSE_SECONDS", 0.01)
    owner, tries = Owner(), iter([OSError("no such file"), None])

    def open_node() -> Any:
        problem = next(tries)
        if problem is not None:
            raise problem
        return opened(hospitals.nodes[0])

    worker = NodeWorker(open_node, lambda: bytes(64), owner)
    worker.start()
    while not worker.most_request_bytes:
        threading.Event().wait(0.01)
    assert [text for text in owner.told if "no such file" in text]
    worker.stop(5.0)


@pytest.mark.parametrize(
    "container",
    [
        None,
        {"data": b"x"},
        Shareable(),
        Shareable({"data": "text"}),
        Shareable({"data": b""}),
        Shareable({"data": b"too long"}),
        make_reply(ReturnCode.TIMEOUT),
        make_reply(ReturnCode.HANDLER_EXCEPTION, {"text": "a patient's"}),
    ],
    ids=["nothing", "a dict", "empty", "no bytes", "no byte", "too long", "late", "an exception"],
)
def test_anything_but_our_bytes_is_no_answer(container: Any) -> None:
    assert read_answer(container, 4) is None
    assert read_answer(answer_of(b"four"), 4) == b"four"


def test_a_request_is_read_for_its_own_study_only() -> None:
    study, other = bytes(32), bytes([1] * 32)
    assert read_request(request_of(study, b"x"), study, 10) == b"x"
    assert read_request(request_of(other, b"x"), study, 10) is None
    assert read_request(request_of(study, b"x" * 11), study, 10) is None
    assert read_request(Shareable({"data": b"x"}), study, 10) is None


def test_an_owner_is_told_once_that_a_job_asks_about_another_study(
    hospitals: Hospitals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, study, handlers = hospitals.nodes[0], hospitals.study, []
    home = SimpleNamespace(
        open_node=lambda digest, engine, tell_owner: opened(node), approval=lambda digest: node.approve(FILE)
    )
    engine = SimpleNamespace(register_aux_message_handler=lambda topic, handler: handlers.append(handler))
    context: Any = SimpleNamespace(get_engine=lambda: engine)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setattr(Home, "open", lambda path: home)
    executor = NodeExecutor(study.digest.hex())
    executor.handle_event(EventType.START_RUN, context)
    ask = handlers[0]
    asked = encode(AttendanceRequest(study.digest))
    while not ask("", request_of(study.digest, asked), context)["data"]:
        threading.Event().wait(0.01)
    log = tmp_path / OWNERS_LOG
    assert "was dropped" not in log.read_text()
    for _ in range(3):
        assert ask("", request_of(bytes(32), asked), context) == answer_of(b"")
    assert log.read_text().count("a request about a different study was dropped") == 1
    executor.handle_event(EventType.END_RUN, context)


def test_the_channel_takes_absence_as_absence_and_stops_when_the_job_is_ended(
    hospitals: Hospitals, tmp_path: Path
) -> None:
    study = hospitals.study
    names = [entry.name for entry in study.roster]
    came = {names[0]: answer_of(b"hello"), names[1]: make_reply(ReturnCode.TIMEOUT), names[2]: Shareable()}
    ending = threading.Event()
    seconds: list[float] = []

    def send(site: str, container: Shareable, deadline: float) -> Any:
        seconds.append(deadline)
        return came.get(site)

    deadlines = Deadlines(stage_seconds=7.0, training_seconds=70.0)
    channel = FlareChannel(study, 100, deadlines, send, ending.is_set, RunLog(tmp_path / "run"))
    requests = dict.fromkeys(range(len(names)), b"request")
    assert channel.exchange(requests, round_number=1, stage="share") == {0: b"hello"}
    assert set(seconds) == {7.0}
    assert channel.exchange({}, round_number=1, stage="share") == {}
    channel.exchange({0: b"request"}, round_number=1, stage="masked input")
    assert seconds[-1] == 70.0
    ending.set()
    with pytest.raises(StudyAborted):
        channel.exchange(requests, round_number=1, stage="share")


def test_a_late_site_interrupts_a_study_once_and_not_again_for_a_while() -> None:
    late = LateSites()
    assert not late.come(bytes(32), set(), 0.0)
    assert late.come(bytes(32), {"one"}, 0.0)
    assert not late.come(bytes(32), {"one"}, 10.0)
    assert late.come(b"x" * 32, {"one"}, 10.0), "of another study it was not told"
    assert late.come(bytes(32), {"one", "other"}, 20.0)
    assert not late.come(bytes(32), {"one"}, 610.0)
    assert late.come(bytes(32), {"one"}, 621.0)


def test_a_job_is_told_that_sites_wait_and_the_one_after_it_is_not(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    assert not log.is_begun
    assert not log.sites_wait("first")
    log.start("first")
    assert log.is_begun
    log.let_wait("first")
    assert log.sites_wait("first")
    assert not log.sites_wait("second")


def child(code: str) -> ProcessAdapter:
    return ProcessAdapter(process=subprocess.Popen([sys.executable, "-c", code]))


def test_a_killed_job_process_is_started_again_and_nothing_of_its_end_is_reported(tmp_path: Path) -> None:
    codes = iter(["import os; os.kill(os.getpid(), 9)", "raise SystemExit(1)", ""])
    started = []

    def start() -> ProcessAdapter:
        started.append(child(next(codes)))
        return started[-1]

    kept = KeptAlive(start, tmp_path, lambda seconds: None, Owner())
    assert list(tmp_path.iterdir())
    (tmp_path / FLMetaKey.PROCESS_RC_FILE).write_text("1")
    kept.wait()
    assert len(started) == 3
    assert kept.poll() == 0
    assert not list(tmp_path.iterdir()), "FLARE would report this exit code, or take the job up again"


@pytest.mark.parametrize("code", [ProcessExitCode.UNSAFE_COMPONENT, ProcessExitCode.CONFIG_ERROR])
def test_a_job_that_is_not_allowed_is_started_once_and_its_owner_is_told(tmp_path: Path, code: int) -> None:
    owner, started = Owner(), []

    def start() -> ProcessAdapter:
        started.append(child(f"raise SystemExit({int(code)})"))
        return started[-1]

    KeptAlive(start, tmp_path, lambda seconds: None, owner).wait()
    assert len(started) == 1
    assert [text for text in owner.told if "refused a job from the server" in text]


def test_a_job_process_that_was_told_to_end_is_not_started_again(tmp_path: Path) -> None:
    started = []

    def start() -> ProcessAdapter:
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
        started.append(ProcessAdapter(process=process))
        return started[-1]

    kept = KeptAlive(start, tmp_path, lambda seconds: None, Owner())
    waiting = threading.Thread(target=kept.wait)
    waiting.start()
    kept.terminate()
    waiting.join(30.0)
    assert not waiting.is_alive()
    assert len(started) == 1
    assert kept.poll() == JobReturnCode.UNKNOWN


def test_a_kit_allows_the_classes_of_a_study_and_flares_own_kit_allows_more(kits: dict[str, Path]) -> None:
    local = kits["one"] / "local"
    other = f"{NPTrainer.__module__}.{NPTrainer.__name__}"

    class Site:
        def __init__(self, name: str) -> None:
            self.name = name

        def get_resources_file_path(self) -> str:
            return str(local / self.name)

    ours, flares = Site("resources.json"), Site("resources.json.default")
    authorizer = ComponentPathAuthorizer()
    authorizer.authorize_component_config({"path": EXECUTOR}, workspace=ours)
    with pytest.raises(UnsafeComponentError):
        authorizer.authorize_component_config({"path": other}, workspace=ours)
    authorizer.authorize_component_config({"path": other}, workspace=flares)


@pytest.mark.parametrize("right", ["byoc", "shell_commands", "view", "operate"])
def test_at_a_site_the_operator_has_rights_that_flares_own_kit_gives_and_ours_does_not(
    kits: dict[str, Path], right: str
) -> None:
    local = kits["one"] / "local"
    operator = Person(OPERATOR, "one", ROLE)

    def allows(file: str) -> bool:
        authorizer = FLAuthorizer("one", json.loads((local / file).read_text()))
        return bool(authorizer.authorize(AuthzContext(right, operator, operator))[0])

    assert not allows("authorization.json")
    assert allows("authorization.json.default")


def test_a_site_and_its_jobs_serve_what_a_job_takes_and_nothing_else_of_what_flare_serves() -> None:
    """By whatever right, and whether the request says that rights are to be looked at or not. In a process of its own:
    a launcher that another test has made has taken the rest away for good."""
    script = """
import json
from nvflare.private.fed.client.client_req_processors import ClientRequestProcessors
from nvflare.private.fed.client.admin_commands import AdminCommands
from secfed.engines.flare.launcher import NodeLauncher

def served():
    topics = sorted({topic for each in ClientRequestProcessors.request_processors for topic in each.get_topics()})
    return topics, sorted(each.get_command_name() for each in AdminCommands.commands)

before = served()
NodeLauncher()
print(json.dumps([before, served()]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    (before, commands_before), (after, commands_after) = json.loads(done.stdout.splitlines()[-1])
    assert {SysCommandTopic.SHELL, SysCommandTopic.REPORT_ENV} <= set(before)
    assert AdminCommandNames.SHOW_ERRORS in commands_before
    assert set(after) == OF_A_SITE
    assert set(commands_after) == OF_A_JOB
    assert AdminCommandNames.SHOW_ERRORS not in commands_after


def test_a_kit_streams_no_logs_and_keeps_its_job_processes(kits: dict[str, Path]) -> None:
    resources = json.loads((kits["two"] / "local" / "resources.json").read_text())
    identities = {each["id"]: each["path"] for each in resources["components"]}
    assert resources["allow_log_streaming"] is False
    assert "site_log_streamer" not in identities
    assert identities["process_launcher"].startswith("secfed.")
    assert (kits["two"] / "startup" / "client.key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("text", ["", "0" * 63, "0" * 65, "G" * 64, "A" * 64, 7, None, "0" * 63 + "\n"])
def test_a_job_names_a_study_by_its_digest_and_nothing_else(text: object) -> None:
    with pytest.raises(ValueError, match="64"):
        study_digest(text)
    assert study_of_job(job_name(bytes(32))) == bytes(32)
    assert study_of_job(f"secfed-{text}") is None


def test_exact_times_lie_beside_a_runs_folder_and_not_in_it(tmp_path: Path) -> None:
    """The folder is handed on."""
    run = tmp_path / "run"
    run.mkdir()
    log = RunLog(run)
    log.start("job")
    log.show(RoundClosed(1, 5, 5, 12.345, 1.0))
    log.let_wait("job")
    assert list(run.iterdir()) == []
    assert [event["event"] for event in read_log(run)] == ["start", "round-closed"]
