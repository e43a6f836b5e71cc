"""A whole federation on this machine: a server and its sites, each in its own process. No nvflare.

For the demo and for tests. The processes meet on the loopback, or each has a network namespace (`namespaces`). Each is
its own session. It is ended by its number, together with the processes of its jobs.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil

from secfed.demo.namespaces import Namespaces
from secfed.engines.flare.processes import command, environment
from secfed.errors import UserError

HOST = "localhost"
SERVER, OPERATOR = "server", "operator"
_GRACE_SECONDS = 10.0


def free_port() -> int:
    """A port of the loopback that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Loopback:
    """Processes that run start-up kits."""

    def __init__(
        self,
        kits: Mapping[str, Path],
        homes: Mapping[str, Path],
        logs: Path,
        namespaces: Namespaces | None = None,
    ) -> None:
        """
        Args:
            kits: by participant: "server", and each site by its name.
            homes: the aggregator's home by "server", and each node's by its site's name.
            logs: the folder for what each process prints, in `NAME.log`.
            namespaces: with one for each participant; without it all are on the loopback.
        """
        self._kits = kits
        self._homes = homes
        self._logs = logs
        self._namespaces = namespaces
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Loopback:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str) -> None:
        """Start the server or a site, also after it was killed."""
        kit = self._kits[name]
        inside = self._namespaces.inside(name) if self._namespaces else []
        with (self._logs / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(  # noqa: S603 - our own interpreter, no shell
                [*inside, *command(kit)],
                env=environment(kit, self._homes[name]),
                cwd=kit,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """Send SIGKILL to the server or a site, and to the processes of its jobs: as if its machine stopped."""
        process = self._processes.pop(name)
        _signal(_family(process.pid), signal.SIGKILL)
        process.wait()

    def kill_job(self, name: str) -> bool:
        """Send SIGKILL only to the job processes of the server or of a site. Returns False if there is none."""
        family = self.family(name)[1:]
        _signal(family, signal.SIGKILL)
        return bool(family)

    def family(self, name: str) -> list[psutil.Process]:
        """The process of the server or of a site, then those of its jobs."""
        return _family(self._processes[name].pid)

    def check(self) -> None:
        """Raises UserError if one of the processes has ended by itself."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise UserError(f"the process of {name} has ended", f"Look at {self._logs / name}.log")

    def stop(self) -> None:
        """End everything that was started here, first with SIGTERM, then with SIGKILL."""
        families = [each for process in self._processes.values() for each in _family(process.pid)]
        _signal(families, signal.SIGTERM)
        end = time.monotonic() + _GRACE_SECONDS
        while any(_is_alive(each) for each in families) and time.monotonic() < end:
            for process in self._processes.values():
                process.poll()
            time.sleep(0.1)
        _signal(families, signal.SIGKILL)
        for process in self._processes.values():
            process.wait()
        self._processes.clear()


def _family(pid: int) -> list[psutil.Process]:
    """A process, then all that it started; none if it is gone."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if process.is_running():  # another process may have its number by now
                os.kill(process.pid, number)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
