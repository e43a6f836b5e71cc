"""A federation of real processes over mutual TLS survives kills, refuses what is not its study, and leaks nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("nvflare")

from secfed.aggregator.journal import Journal
from secfed.demo.flare import submit_when_connected
from secfed.demo.loopback import HOST, SERVER
from secfed.engines.flare.jobs import write_job
from secfed.engines.flare.kits import Federation, make_kits
from secfed.engines.flare.settings import CONTROLLER, EXECUTOR
from secfed.engines.flare.tls import Server, greet
from secfed.errors import UserError
from tests.flare import CANARY, Processes, by_number, federation

pytestmark = [pytest.mark.flare, pytest.mark.timeout(900)]
ROUNDS = 7


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Server and sites are connected; no job has been submitted."""
    with federation(tmp_path_factory.mktemp("flare"), ROUNDS) as processes:
        processes.start()
        processes.wait_for_sites()
        yield processes


def test_a_job_with_code_of_its_own_is_refused(running: Processes, tmp_path: Path) -> None:
    job, ran = write_job(tmp_path, running.study), tmp_path / "ran"
    (job / "study" / "custom").mkdir()
    (job / "study" / "custom" / "sitecustomize.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    assert running.outcome(job).endswith("FAILED_TO_RUN")
    assert "BYOC not permitted" in (running.folder / "logs" / f"{SERVER}.log").read_text()
    assert not ran.exists()
    assert not list(running.folder.glob("kits/*/*/**/sitecustomize.py"))


@pytest.mark.parametrize(
    ("file", "ours", "other"),
    [
        (
            "config_fed_server.json",
            CONTROLLER,
            "nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather",
        ),
        ("config_fed_client.json", EXECUTOR, "nvflare.app_common.np.np_trainer.NPTrainer"),
    ],
)
def test_a_job_that_names_another_installed_class_is_refused(
    running: Processes, tmp_path: Path, file: str, ours: str, other: str
) -> None:
    job = write_job(tmp_path, running.study)
    path = job / "study" / "config" / file
    path.write_text(path.read_text().replace(ours, other))
    assert "COMPLETED" not in running.outcome(job)
    logs = [path.read_text() for path in (running.folder / "logs").iterdir()]
    assert any(f"{other!r}" in text and "is not in allow_list" in text for text in logs)


def test_a_site_with_a_certificate_of_another_authority_is_not_let_in(running: Processes, tmp_path: Path) -> None:
    """The same name, the same federation's name, the right server: another authority's certificate."""
    settings = json.loads((running.kits[SERVER] / "startup" / "fed_server.json").read_text())
    port, site = int(settings["servers"][0]["admin_port"]), running.names[0]
    others = make_kits(Federation("loopback", HOST, port, (site,)), tmp_path / "kits")

    def greeting_of(kit: Path | None) -> str:
        own = (kit / "startup" / "client.crt", kit / "startup" / "client.key") if kit else (None, None)
        return greet(Server(HOST, port, running.kits[site] / "startup" / "rootCA.pem", *own)).text

    assert "TLSv1." in greeting_of(running.kits[site])
    for kit in (others[site], None):
        with pytest.raises(UserError, match=r"breaks TLS off|closes the connection"):
            greeting_of(kit)


def test_a_study_survives_kills_of_sites_and_server(running: Processes) -> None:
    victim, other = running.names[1], running.names[2]
    submit_when_connected(running.operator, running.study, running.loopback)
    running.at_stage(2, "masked input")
    assert running.loopback.kill_job(victim), "no job process to kill"
    assert running.closed(2)["event"] == "round-closed"
    running.at_stage(4, "masked input")
    running.loopback.kill(other)
    running.loopback.start(other)
    assert running.closed(4)["event"] == "round-closed"
    running.at_stage(5, "masked input")
    running.loopback.kill(SERVER)
    running.loopback.start(SERVER)
    rounds = by_number(running.finished())
    assert victim not in rounds[2]["survivors"]
    assert victim in rounds[3]["survivors"]
    assert other not in rounds[4]["survivors"]
    assert rounds[5]["attempt_void"], "the server died before its sum was published"
    past = Journal(running.run).read(running.study, 1 << 24)
    assert past.opened == ROUNDS


def test_nothing_of_a_patient_reached_the_server(running: Processes) -> None:
    """Runs last: everything that the server's processes wrote by then, logs and stores included."""
    seen = running.written_by_server()
    assert len(seen) > 20
    found = [path for path in seen if CANARY.encode() in path.read_bytes()]
    assert not found
    planted = [home for home in running.homes if CANARY in Path(home.node.data[0].file).read_text()]
    assert len(planted) == len(running.homes), "the canaries are not where they could leak from"
