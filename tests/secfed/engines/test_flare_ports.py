"""A server's port is tried before it starts, and one that lives on without its work is found out."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("psutil")

from secfed.demo.loopback import free_port
from secfed.engines.flare.ports import check_ports, ports_of
from secfed.engines.flare.processes import become
from secfed.engines.flare.server_watch import deaf, lost
from secfed.errors import UserError


def make_kit(folder: Path, port: int, admin_port: int, host: str = "localhost") -> Path:
    """As much of a server's kit as says where it listens."""
    (folder / "startup").mkdir(parents=True, exist_ok=True)
    server = {"service": {"target": f"{host}:{port}"}, "admin_port": admin_port}
    (folder / "startup" / "fed_server.json").write_text(json.dumps({"servers": [server]}))
    return folder


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that this process listens on, and would share, as gRPC does."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "aggregator.example"])
def test_a_port_that_somebody_listens_on_is_refused_and_named_with_its_holder(
    tmp_path: Path, taken: int, host: str
) -> None:
    with pytest.raises(UserError, match=rf"port {taken} is in use by python.*, process {os.getpid()}"):
        check_ports(make_kit(tmp_path, taken, taken, host))


def test_the_operators_port_is_tried_too_where_it_is_another(tmp_path: Path, taken: int) -> None:
    kit = make_kit(tmp_path, free_port(), taken)
    assert len(ports_of(kit)) == 2
    with pytest.raises(UserError, match=f"port {taken} is in use"):
        check_ports(kit)


def test_a_free_port_is_no_matter_and_stays_free(tmp_path: Path) -> None:
    kit = make_kit(tmp_path, port := free_port(), port)
    check_ports(kit)
    check_ports(kit)


def test_a_port_whose_last_connections_are_just_closing_is_free(tmp_path: Path) -> None:
    """As after a restart: the server closes them first, and the kernel keeps their addresses for a minute."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gRPC sets it
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = int(listener.getsockname()[1])
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = listener.accept()
            accepted.close()
            assert client.recv(1) == b""
    check_ports(make_kit(tmp_path, port, port))


def test_a_kit_that_says_no_port_is_refused(tmp_path: Path) -> None:
    kit = make_kit(tmp_path, 1, 1)
    (kit / "startup" / "fed_server.json").write_text("{}")
    with pytest.raises(UserError, match="does not name the port"):
        check_ports(kit)


def test_a_server_does_not_start_on_a_port_in_use(tmp_path: Path, taken: int) -> None:
    kit = make_kit(tmp_path, taken, taken)
    with pytest.raises(UserError, match=f"port {taken} is in use"):
        become(kit, tmp_path)
    assert not (kit / "local").exists(), "the kit was touched"


def test_a_process_that_does_not_listen_on_its_kits_port_is_deaf(tmp_path: Path, taken: int) -> None:
    assert deaf(make_kit(tmp_path / "one", taken, taken)) == ""
    port = free_port()
    assert deaf(make_kit(tmp_path / "two", port, taken)) == f"it does not listen on port {port}"
    assert deaf(tmp_path / "none") == "", "what cannot be seen is no reason to end a server"


def test_a_thread_that_was_there_and_is_gone_is_noticed() -> None:
    ending, seen = threading.Event(), set[str]()

    def _job_complete_process() -> None:
        ending.wait()

    assert lost(seen) == ""
    thread = threading.Thread(target=_job_complete_process)
    thread.start()
    assert lost(seen) == ""
    ending.set()
    thread.join()
    assert "_job_complete_process" in lost(seen)
