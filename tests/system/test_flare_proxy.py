"""A site that only a proxy leads out of takes part: FLARE's TLS goes through it unopened, and so does the doctor's."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("nvflare")

from secfed.demo.flare import submit_when_connected
from secfed.demo.loopback import SERVER
from secfed.engines.flare.jobs import connect
from tests.connect_proxy import ConnectProxy
from tests.flare import NEEDS_NAMESPACES, Processes, by_number, federation

pytestmark = [
    pytest.mark.flare,
    pytest.mark.timeout(900),
    NEEDS_NAMESPACES,
]
ROUNDS, SECONDS_WITHOUT = 6, 30.0


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Processes]:
    """All but the second site run, from which nothing gets through to the server."""
    with federation(tmp_path, ROUNDS, apart=True) as processes:
        assert processes.namespaces is not None
        rule = ["ip", "route", "add", "unreachable", processes.namespaces.address(SERVER)]
        inside = processes.namespaces.inside(processes.names[1])
        subprocess.run([*inside, *rule], check=True)
        for name in (SERVER, *processes.names):
            if name != processes.names[1]:
                processes.launch(name)
        yield processes


def told_by_doctor(processes: Processes, name: str) -> str:
    """What the doctor says of the server, run where this site is."""
    assert processes.namespaces is not None
    kit = processes.kits[name] / "startup"
    settings = json.loads((processes.kits[SERVER] / "startup" / "fed_server.json").read_text())
    address = f"{processes.namespaces.address(SERVER)}:{settings['servers'][0]['admin_port']}"
    own = ["--ca", kit / "rootCA.pem", "--cert", kit / "client.crt", "--key", kit / "client.key"]
    home = next(each.path for each in processes.homes if each.name == name)
    done = subprocess.run(
        [
            *processes.namespaces.inside(name),
            *(sys.executable, "-c", "from secfed.cli import main; main()"),
            *("doctor", "--json", "--home", home, "--server", address, *own),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    (found,) = (each for each in json.loads(done.stdout)["findings"] if each["check"] == "server")
    return f"{found['state']}: {found['text']}"


def test_a_site_behind_a_proxy_takes_part(running: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = running.names[1]
    assert running.namespaces is not None
    running.launch(victim)
    assert "cannot connect" in told_by_doctor(running, victim)
    time.sleep(SECONDS_WITHOUT)
    with connect(running.operator) as operator:
        assert victim not in operator.sites(), "it gets through without a proxy"
    running.loopback.kill(victim)
    with ConnectProxy(running.namespaces.here) as proxy:
        monkeypatch.setenv("grpc_proxy", proxy.url)
        running.launch(victim)
        assert "ok: TLSv1." in (told := told_by_doctor(running, victim))
        assert f"through the proxy {proxy.url.removeprefix('http://')}" in told
        monkeypatch.delenv("grpc_proxy")
        submit_when_connected(running.operator, running.study, running.loopback)
        running.at_stage(3, "masked input")
        proxy.break_off()
        summary = running.finished()
        targets = {head.split(b" ")[1].decode().rpartition(":")[0] for head in proxy.heads}
        assert targets == {running.namespaces.address(SERVER)}, "what a site says to itself stays there"
    rounds = by_number(summary)
    assert victim in rounds[1]["survivors"]
    assert victim in rounds[ROUNDS]["survivors"]
