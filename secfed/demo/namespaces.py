"""A separate network on this machine: every participant has a network namespace, as if it had its own machine. Linux.

On one loopback a server and its sites can reach every port of each other, and nobody can pull a cable. Here each has
one network interface, on one wire, and its own loopback. For the demo and for tests, if the machine allows it: that
takes root, and `ip` from iproute2. The machine's own networks stay as they are; one interface is added.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

import psutil

from secfed.errors import UserError

_PREFIX = "secfed"
_OURS = re.compile(rf"{_PREFIX}-(\d+)-\S+")
_WIRE, _PORT = "wire", "port"
_MOST, _HERE = 200, 254
_SECONDS = 20.0


class Namespaces:
    """One namespace for each participant, and a wire between them that can be cut. A context manager."""

    def __init__(self, names: Sequence[str]) -> None:
        """
        Args:
            names: the participants, at most 200. The first is at address 1 of the network, and so on.
        """
        if not 0 < len(names) <= _MOST:
            raise ValueError(f"a network here has 1 to {_MOST} participants")
        self._numbers = {name: number for number, name in enumerate(names, start=1)}
        self._interface = f"{_PREFIX}-{secrets.token_hex(4)}"
        self._network = ""

    @staticmethod
    def possible() -> bool:
        """Whether this machine lets us make namespaces."""
        if os.name != "posix" or os.geteuid() != 0 or shutil.which("ip") is None:
            return False
        trial = _name("trial")
        try:
            _ip("netns", "add", trial)
            _ip("netns", "exec", trial, "ip", "link", "set", "lo", "up")
        except UserError:
            return False
        finally:
            with suppress(UserError):
                _ip("netns", "delete", trial)
        return True

    def __enter__(self) -> Namespaces:
        _remove_abandoned()
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def address(self, name: str) -> str:
        """The address at which the others and this process reach a participant."""
        return f"{self._network}.{self._numbers[name]}"

    @property
    def here(self) -> str:
        """The address at which the participants reach this process."""
        return f"{self._network}.{_HERE}"

    def inside(self, name: str) -> list[str]:
        """What to put before a command to run it at a participant. It turns into the command: no process in between."""
        return [_program(), "netns", "exec", _name(str(self._numbers[name]))]

    def cut(self, name: str) -> None:
        """Pull a participant's cable: what is sent is lost, without an error."""
        _ip("-n", _name(_WIRE), "link", "set", self._port(name), "down")

    def mend(self, name: str) -> None:
        """Plug a participant's cable in again."""
        _ip("-n", _name(_WIRE), "link", "set", self._port(name), "up")

    def _port(self, name: str) -> str:
        return f"{_PORT}{self._numbers[name]}"

    def _make(self) -> None:
        wire = _name(_WIRE)
        _ip("netns", "add", wire)
        _ip("-n", wire, "link", "add", _WIRE, "type", "bridge")
        _ip("-n", wire, "link", "set", _WIRE, "up")
        self._network = _unused_network()
        _ip("link", "add", self._interface, "type", "veth", "peer", "name", f"{_PORT}0", "netns", wire)
        self._plug_in(f"{_PORT}0")
        _ip("addr", "add", f"{self.here}/24", "dev", self._interface)
        _ip("link", "set", self._interface, "up")
        for name, number in self._numbers.items():
            own, port = _name(str(number)), self._port(name)
            _ip("netns", "add", own)
            _ip("-n", wire, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", own)
            self._plug_in(port)
            _ip("-n", own, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
            for each in ("lo", "eth0"):
                _ip("-n", own, "link", "set", each, "up")

    def _plug_in(self, port: str) -> None:
        _ip("-n", _name(_WIRE), "link", "set", port, "master", _WIRE, "up")

    def _remove(self) -> None:
        """Remove everything. A namespace takes its interfaces along, and an interface its other end."""
        for each in (_WIRE, *map(str, self._numbers.values())):
            with suppress(UserError):
                _ip("netns", "delete", _name(each))
        with suppress(UserError):
            _ip("link", "delete", self._interface)


def _name(part: str) -> str:
    """A namespace's name, which says which process made it."""
    return f"{_PREFIX}-{os.getpid()}-{part}"


def _remove_abandoned() -> None:
    """Remove the namespaces of processes that were killed; that of the wire takes its interfaces along."""
    for line in _ip("netns", "list").splitlines():
        found = _OURS.match(line)
        if found and not psutil.pid_exists(int(found[1])):
            with suppress(UserError):
                _ip("netns", "delete", found[0])


def _unused_network() -> str:
    """The first three numbers of a network for tests (RFC 2544) to which this machine has no route."""
    routes = _ip("route", "list")
    for _ in range(256):
        network = f"198.18.{secrets.randbelow(256)}"
        if f"{network}." not in routes:
            return network
    raise UserError("every network of 198.18.0.0/16 is in use on this machine", "Remove one; see `ip route`")


def _program() -> str:
    found = shutil.which("ip")
    if found is None:
        raise UserError("there is no `ip` on this machine", "Install iproute2")
    return found


def _ip(*arguments: str) -> str:
    """Run `ip`. Raises UserError with what it printed."""
    command = [_program(), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"`{' '.join(command)}` does not run ({error})", "Run it by hand to see why") from error
    if done.returncode != 0:
        raise UserError(f"`{' '.join(command)}` fails: {done.stderr.strip()}", "Run it as root, on Linux")
    return done.stdout
