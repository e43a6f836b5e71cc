"""Checks before a server starts that its ports are free. No nvflare.

FLARE's gRPC shares a port with any program that allows it; if none does, it reports nothing, and the server runs but
cannot be reached. So the port is tried without sharing, but in a way that accepts a port whose last connections are
just closing.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import socket
from contextlib import suppress
from pathlib import Path

import psutil

from secfed.errors import UserError


def ports_of(kit: Path) -> set[tuple[str, int]]:
    """The addresses that the server of this kit listens on, as FLARE reads them.

    Raises:
        OSError, ValueError, KeyError: the kit does not name them.
    """
    server = json.loads((kit / "startup" / "fed_server.json").read_text())["servers"][0]
    name, _, port = server["service"]["target"].partition(":")
    address = "127.0.0.1" if _is_loopback(name) else "0.0.0.0"  # noqa: S104 - as the server does
    return {(address, int(port)), (address, int(server.get("admin_port", port)))}


def check_ports(kit: Path) -> None:
    """Refuse to start a server on a port that is in use.

    Raises:
        UserError: names the port and, if visible, the program that uses it.
    """
    try:
        addresses = ports_of(kit)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{kit} does not name the port that its server listens on", "Make the kit again") from error
    for address, port in sorted(addresses):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
                probe.listen(1)
            except OSError as error:
                raise _refusal(port, error) from error


def _refusal(port: int, error: OSError) -> UserError:
    if error.errno == errno.EADDRINUSE:
        return UserError(
            f"port {port} is in use{_holder(port)}, so no site could reach this server",
            "End that program (or the server that already runs), or make kits with another port",
        )
    if error.errno == errno.EACCES:
        return UserError(
            f"this user is not allowed to listen on port {port} ({error.strerror})",
            "Make kits with a port of 1024 or above, or allow the service to use this one",
        )
    return UserError(f"cannot listen on port {port} ({error.strerror})", "Check the machine's network")


def _holder(port: int) -> str:
    """The program that uses a port, as far as this user can see."""
    with suppress(psutil.Error, OSError):
        for each in psutil.net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN and each.laddr.port == port and each.pid:
                with suppress(psutil.Error):
                    return f" by {psutil.Process(each.pid).name()}, process {each.pid}"
    return " by another program"


def _is_loopback(name: str) -> bool:
    if name.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
