"""A server whose port somebody has does not start, and says why; one that started all the same ends by itself."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("nvflare")

from secfed.aggregator.home import AggregatorHome
from secfed.demo.loopback import HOST, OPERATOR, SERVER, Loopback, free_port
from secfed.engines.flare.jobs import connect
from secfed.engines.flare.kits import Federation, make_kits
from secfed.errors import UserError
from tests.flare import ROOT, python_path

pytestmark = [pytest.mark.flare, pytest.mark.timeout(600)]
SECFED = "from secfed.cli import main; main()"


def start_command(kit: Path, home: Path) -> subprocess.Popen[str]:
    """`secfed federation start`, as a service manager runs it."""
    return subprocess.Popen(
        [sys.executable, "-c", SECFED, "federation", "start", str(kit), "--aggregator", str(home)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_a_port_in_use_ends_the_server_and_is_named_and_once_it_is_free_the_server_starts(tmp_path: Path) -> None:
    kits = make_kits(Federation("loopback", HOST, port := free_port(), ("one", "two")), tmp_path / "kits")
    home = AggregatorHome(tmp_path / "aggregator")
    home.path.mkdir()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        refused = start_command(kits[SERVER], home.path)
        said, _ = refused.communicate(timeout=120.0)
        assert refused.returncode == 2, said
        assert f"port {port} is in use by" in said
        assert f"process {os.getpid()}" in said
        assert "Traceback" not in said

        # And with FLARE's own way to start it, which asks nobody: it says that it has started, and hears nothing.
        with python_path(ROOT), Loopback(kits, {SERVER: home.path}, tmp_path / "logs") as loopback:
            loopback.start(SERVER)
            end = time.monotonic() + 180.0
            while True:
                try:
                    loopback.check()
                except UserError:
                    break
                assert time.monotonic() < end, "the server lives on, deaf"
                time.sleep(1.0)
        assert f"does not listen on port {port}" in (tmp_path / "logs" / f"{SERVER}.log").read_text()

    server = start_command(kits[SERVER], home.path)
    try:
        end = time.monotonic() + 120.0
        while True:
            try:
                with connect(kits[OPERATOR]) as operator:
                    assert operator.jobs() == []
                break
            except UserError:
                assert server.poll() is None, server.communicate()[0]
                assert time.monotonic() < end, "the server does not answer"
                time.sleep(1.0)
    finally:
        server.terminate()
        try:
            server.wait(30.0)
        except subprocess.TimeoutExpired:
            server.kill()
        server.communicate()
