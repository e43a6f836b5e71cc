"""A site's certificate expires during a run: the run goes on, the site's next start says why not, and it comes back."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nvflare")

from secfed.demo.loopback import SERVER
from secfed.engines.flare.jobs import connect
from secfed.engines.flare.progress import read_log
from tests.flare import Processes, federation, owners_log, wait_until_told
from tests.kits import KitAuthority
from tests.tls import DAY

pytestmark = [pytest.mark.flare, pytest.mark.timeout(900)]
ROUNDS = 24
LIFE = timedelta(seconds=60)
"""Long enough to connect and to take part, and over before the study is."""


def secfed(processes: Processes, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A command, as its user runs it."""
    command = [sys.executable, "-c", "from secfed.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=processes.folder)


def status(processes: Processes) -> dict[str, Any]:
    """What `secfed federation status` says of the study."""
    where = ("--kit", processes.operator, "--aggregator", processes.aggregator.path)
    said = secfed(processes, "federation", "status", *where, "--json")
    assert said.returncode == 0, said.stderr
    (study,) = json.loads(said.stdout)["studies"]
    return dict(study)


def last_opened(processes: Processes) -> int:
    return max(event["round_number"] for event in read_log(processes.run) if event["event"] == "round-opened")


def test_a_certificate_that_expires_during_the_run(tmp_path: Path) -> None:
    with federation(tmp_path, ROUNDS, gathering_seconds=300.0) as processes:
        authority = KitAuthority.of(tmp_path / "kits")
        organiser = authority.as_provisioned(tmp_path / "organiser")
        *others, expiring = processes.names
        (home,) = [each for each in processes.homes if each.name == expiring]
        kit = processes.kits[expiring]
        authority.reissue(processes.kits[SERVER], datetime.now(UTC) - DAY, datetime.now(UTC) + 20 * DAY)
        for name in (SERVER, *others):
            processes.launch(name)
        processes.wait_for_sites(others)
        end = datetime.now(UTC) + LIFE
        authority.reissue(kit, datetime.now(UTC) - DAY, end)
        processes.launch(expiring)
        processes.wait_for_sites()
        with connect(processes.operator) as operator:
            operator.submit(processes.study)

        # The server tells thirty days ahead that its certificate ends. The site's connection outlives the site's own:
        # it goes on taking part, and its owner knows.
        assert "the certificate of the server expires in 19 days" in (processes.kits[SERVER] / "log.txt").read_text()
        wait_until_told(home, f"the certificate of {expiring} expires in")
        wait_until_told(home, f"the certificate of {expiring} expired at", 120.0)
        assert datetime.now(UTC) > end
        opened = last_opened(processes)
        assert processes.closed(opened + 1)["event"] == "round-closed"
        told = len(owners_log(home))

        # Started again it cannot connect: it ends, and says so. The study waits for it.
        processes.loopback.kill(expiring)
        started = secfed(processes, "node", "run", kit, "--home", home.path)
        assert started.returncode == 2
        for words in (started.stderr, owners_log(home)[told:]):
            assert f"the certificate of {expiring} expired at" in words
            assert "`secfed federation renew`" in words
            assert "Traceback" not in words
        doctor = secfed(processes, "doctor", "--home", home.path)
        assert doctor.returncode == 1
        assert f"the certificate of {expiring} expired at" in doctor.stdout
        said = status(processes)
        (site,) = [each for each in said["sites"] if each["name"] == expiring]
        assert said["state"] == "running"
        assert expiring in said["waits_for"]
        assert not site["connected"]

        # Renewed, with the key that it has, it takes part in what is left.
        key = (kit / "startup" / "client.key").read_bytes()
        assert secfed(processes, "federation", "renew", expiring, "--federation", organiser).returncode == 0
        renewed = organiser / "renewed" / f"{expiring}.crt"
        assert secfed(processes, "federation", "install", renewed, "--kit", kit).returncode == 0
        assert (kit / "startup" / "client.key").read_bytes() == key
        processes.launch(expiring)
        summary = processes.finished()
        with_it = [expiring in each["survivors"] for each in summary["rounds"]]
        assert with_it[0]
        assert with_it[opened], "the round after it had expired"
        assert with_it[-1]
        assert status(processes)["state"] == "completed"
