"""A server that follows no rule: its sites run no code of its, and give it nothing but what a job takes.

Every test has the same done to one careless site more, which has FLARE's own rules and not ours: there it succeeds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("nvflare")

from nvflare.private.defs import InfoCollectorTopic, SysCommandTopic, TrainingTopic

from secfed.demo.loopback import SERVER
from secfed.engines.flare.jobs import connect, write_job
from secfed.engines.flare.kits import ROLE
from secfed.engines.flare.settings import EXECUTOR
from secfed.node.pace import OWNERS_LOG
from tests.cells import MIB, peak_mib
from tests.flare import CANARY, Processes, federation, owners_log, wait_until_told
from tests.flare_hooks import Asking, unbounded_logs

pytestmark = [pytest.mark.flare, pytest.mark.timeout(900)]
MARKING = """
import os, pathlib
home = pathlib.Path(os.environ.get("SECFED_HOME") or os.environ["SECFED_AGGREGATOR"])
pathlib.Path(MARKS, home.name).touch()
"""
SHIPPED_CLASS = """
from nvflare.apis.executor import Executor
from nvflare.apis.shareable import Shareable

class Shipped(Executor):
    def __init__(self, study):
        super().__init__()

    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        return Shareable()
"""


@dataclass(frozen=True, slots=True)
class Compromised:
    """A federation whose server is the attacker's."""

    processes: Processes
    server: Asking

    @property
    def honest(self) -> tuple[str, ...]:
        return self.processes.names[:-1]

    @property
    def careless(self) -> str:
        return self.processes.names[-1]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compromised]:
    folder = tmp_path_factory.mktemp("flare")
    server = Asking(tmp_path_factory.mktemp("server"))
    with federation(folder, 1, gathering_seconds=10.0, hooks={SERVER: server.hook}) as processes:
        compromised = Compromised(processes, server)
        loosen(processes.kits[SERVER] / "local", "resources.json")
        loosen(processes.kits[compromised.careless] / "local", "resources.json.default")
        processes.start()
        processes.wait_for_sites()
        yield compromised


def loosen(local: Path, resources: str) -> None:
    """Everybody may do everything, and any class may be named."""
    loose = {**json.loads((local / resources).read_text()), "class_allow_list": ["*"]}
    (local / "resources.json").write_text(json.dumps(loose))
    everything = dict.fromkeys((ROLE, "project_admin", "org_admin", "member"), "any")
    (local / "authorization.json").write_text(json.dumps({"format_version": "1.0", "permissions": everything}))


def wait_for_mark(marks: Path, site: str) -> None:
    end = time.monotonic() + 120.0
    while not (marks / site).exists():
        assert time.monotonic() < end, "it does not even run where everything is allowed"
        time.sleep(0.5)


@pytest.mark.parametrize("way", ["as a module that Python runs by itself", "as the class that the job names"])
def test_code_that_a_job_ships_runs_at_no_site_that_keeps_our_rules(
    running: Compromised, tmp_path: Path, way: str
) -> None:
    processes, marks = running.processes, tmp_path / "marks"
    marks.mkdir()
    job = write_job(tmp_path, processes.study)
    custom = job / "study" / "custom"
    custom.mkdir()
    marking = f"MARKS = {str(marks)!r}{MARKING}"
    if way == "as the class that the job names":
        (custom / "shipped.py").write_text(marking + SHIPPED_CLASS)
        config = job / "study" / "config" / "config_fed_client.json"
        config.write_text(config.read_text().replace(EXECUTOR, "shipped.Shipped"))
    else:
        (custom / "sitecustomize.py").write_text(marking)
    meta = json.loads((job / "meta.json").read_text())
    (job / "meta.json").write_text(json.dumps({**meta, "min_clients": 1}))
    identity = processes.submit(job)
    wait_for_mark(marks, running.careless)
    with connect(processes.operator) as operator:
        said = operator.meta(identity)["job_deploy_detail"]
    processes.abort()
    assert not {path.name for path in marks.iterdir()} & set(running.honest)
    for home in processes.homes[:-1]:
        assert "a job from the server was refused: BYOC not permitted" in owners_log(home)
    for site in running.honest:
        assert any(each.startswith(f"{site}: ") and "BYOC not permitted" in each for each in said), said
        assert not [path for path in processes.kits[site].rglob("*") if path.name in ("shipped.py", "sitecustomize.py")]


def test_a_class_that_a_job_names_starts_no_program_at_a_site_that_keeps_our_rules(
    running: Compromised, tmp_path: Path
) -> None:
    """No code is shipped: Python's own class is enough."""
    processes, marks = running.processes, tmp_path / "marks"
    marks.mkdir()
    command = ["sh", "-c", f'touch {marks}/"$(basename "$SECFED_HOME")"']

    def job_at(*sites: str) -> Path:
        job = write_job(tmp_path / sites[0], processes.study)
        config, meta = job / "study" / "config" / "config_fed_client.json", job / "meta.json"
        named = {"id": "program", "path": "subprocess.Popen", "args": {"args": command}}
        config.write_text(json.dumps({**json.loads(config.read_text()), "components": [named]}))
        told = {"min_clients": 1, "deploy_map": {"study": [SERVER, *sites]}}
        meta.write_text(json.dumps({**json.loads(meta.read_text()), **told}))
        return job

    assert "COMPLETED" not in processes.outcome(job_at(*running.honest))
    processes.submit(job_at(running.careless))
    wait_for_mark(marks, running.careless)
    processes.abort()
    assert [path.name for path in marks.iterdir()] == [running.careless]
    # Once one site has refused, the server ends the job, and the others' processes maybe before they have said so.
    told = [owners_log(home) for home in processes.homes[:-1]]
    assert any("it names a class that is not allowed here" in text for text in told)
    for home in processes.homes[:-1]:
        log = (processes.folder / "logs" / f"{home.name}.log").read_text()
        assert "'subprocess.Popen'" in log
        assert "is not in allow_list" in log


def test_a_server_reads_no_file_of_a_site(running: Compromised) -> None:
    """FLARE's client runs `cat`, and looks into its rules only if the server's request says so."""
    for home in running.processes.homes:
        records = home.node.data[0].file
        answer = running.server.ask(home.name, SysCommandTopic.SHELL, f"cat {records}")
        if home.name == running.careless:
            assert CANARY in answer
        else:
            assert answer == "invalid_request"


@pytest.mark.parametrize(
    "topic",
    [
        SysCommandTopic.REPORT_ENV,
        SysCommandTopic.SYS_INFO,
        SysCommandTopic.CONFIGURE_SITE_LOG,
        InfoCollectorTopic.SHOW_ERRORS,
        InfoCollectorTopic.SHOW_STATS,
        TrainingTopic.CHECK_STATUS,
        TrainingTopic.CONFIGURE_JOB_LOG,
        TrainingTopic.DELETE_RUN,
    ],
)
def test_a_site_serves_no_request_that_no_job_needs(running: Compromised, topic: str) -> None:
    assert running.server.ask(running.honest[0], topic, "") == "invalid_request"
    assert running.server.ask(running.careless, topic, "") != "invalid_request"
    assert running.server.ask(running.honest[0], TrainingTopic.CANCEL_RESOURCE, "") != "invalid_request"


DECLARED_MIB, NOISE_MIB = 700, 100
GROWTH_SECONDS = 20.0


@pytest.fixture(scope="module")
def careless_site(running: Compromised, tmp_path_factory: pytest.TempPathFactory) -> Asking:
    """The careless site, started anew: it is the attacker's now, and it writes down every line."""
    name = running.careless
    site = Asking(tmp_path_factory.mktemp("site"), name, "client_train")
    no_bounds = (unbounded_logs(tmp_path_factory.mktemp("logs") / "hook") / "sitecustomize.py").read_text()
    with (site.hook / "sitecustomize.py").open("a") as hook:
        hook.write(no_bounds)
    running.processes.loopback.kill(name)
    running.processes.hooks[name] = site.hook
    running.processes.launch(name)
    running.processes.wait_for_sites()
    return site


def grown(sender: Asking, cell: str, pid: int) -> float:
    """By how much a process's peak of memory grows, in MiB, when this is declared to it.

    A process that takes the memory is waited for until it has it; one that does not gets the whole of the time.
    """
    before = peak_mib(pid)
    sender.declare(cell, DECLARED_MIB * MIB)
    end = time.monotonic() + GROWTH_SECONDS
    while (growth := peak_mib(pid) - before) <= DECLARED_MIB - NOISE_MIB and time.monotonic() < end:
        time.sleep(0.5)
    return growth


def test_a_server_that_declares_gigabytes_is_given_no_memory(running: Compromised) -> None:
    pids = {name: running.processes.loopback.family(name)[0].pid for name in (running.honest[0], running.careless)}
    by_site = {name: grown(running.server, name, pid) for name, pid in pids.items()}
    assert by_site[running.honest[0]] < NOISE_MIB
    assert by_site[running.careless] > DECLARED_MIB - NOISE_MIB


def test_a_site_that_declares_gigabytes_is_given_no_memory(running: Compromised, careless_site: Asking) -> None:
    """What it takes where nothing is bounded, `tests/secfed/engines/test_flare_bounds.py` shows."""
    server = running.processes.loopback.family(SERVER)[0].pid
    assert grown(careless_site, "server", server) < NOISE_MIB


def test_a_job_that_floods_its_sites_gets_neither_their_disk_nor_their_memory(
    running: Compromised, careless_site: Asking, tmp_path: Path
) -> None:
    """One junk byte a time, about the right study."""
    processes = running.processes
    running.server.flood(on=True)
    identity = processes.submit(write_job(tmp_path, processes.study))
    try:
        for home in processes.homes:
            wait_until_told(home, "no answer to a request")
        sites = {home.name: home for home in processes.homes}
        pids = {name: processes.loopback.family(name)[1].pid for name in (running.honest[0], running.careless)}
        by_job = {name: grown(running.server, f"{name}.{identity}", pid) for name, pid in pids.items()}
        end = time.monotonic() + 180.0
        while len(owners_log(sites[running.careless]).splitlines()) < 1500:
            assert time.monotonic() < end, "there is no flood"
            time.sleep(0.5)
    finally:
        running.server.flood(on=False)
    processes.abort()
    assert by_job[running.honest[0]] < NOISE_MIB
    assert by_job[running.careless] > DECLARED_MIB - NOISE_MIB
    for name in running.honest:
        assert len(owners_log(sites[name]).splitlines()) < 400
        assert (sites[name].path / OWNERS_LOG).stat().st_mode & 0o777 == 0o600
    for name in running.honest:
        assert "... repeated " in owners_log(sites[name])
