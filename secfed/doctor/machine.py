"""Checks of the machine that a node or an aggregator runs on: Python, libraries, disk, clock. For `secfed doctor`.

The machine's facts are a parameter, so that a test can plant every fault.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from secfed.errors import UserError
from secfed.findings import Finding, NotChecked, look

FREE_BYTES_MIN = 2 << 30
"""Less free disk space than this fails: ledger, store (with every round's sum) and logs must never fill the disk."""
SKEW_MAX = timedelta(seconds=60)
"""A larger clock difference than this fails: certificates and the ledger's times depend on the clock."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The facts about a machine."""

    python: str = platform.python_version()
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free
    version_of: Callable[[str], str] = version
    """The installed version of a package. Raises PackageNotFoundError."""


def check_machine(machine: Machine, folder: Path) -> list[Finding]:
    """Check Python, the libraries, and the disk of a folder."""
    return [
        look("python", lambda: _python(machine)),
        look("libraries", lambda: _libraries(machine)),
        look("disk", lambda: _disk(machine, folder), f"Check the disk of {folder}"),
    ]


def _python(machine: Machine) -> str:
    wanted = metadata("secfed")["Requires-Python"] or ""
    if machine.python not in SpecifierSet(wanted):
        raise UserError(
            f"this is Python {machine.python}, but secfed needs {wanted}",
            "Reinstall secfed in an environment with a matching Python",
        )
    return machine.python


def _libraries(machine: Machine) -> str:
    """Check every requirement of the installed secfed, except those of extras."""
    found, wrong = 0, []
    for text in requires("secfed") or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found += 1
        try:
            there = machine.version_of(requirement.name)
        except PackageNotFoundError:
            there = "none"
        if there == "none" or not requirement.specifier.contains(there, prereleases=True):
            wrong.append(f"{requirement.name}{requirement.specifier} (there is {there})")
    if wrong:
        names = " ".join(f"'{each.split(' ')[0]}'" for each in wrong)
        raise UserError(f"secfed needs {', '.join(wrong)}", f"Run `python -m pip install {names}`")
    return f"all {found} libraries have the required versions"


def _disk(machine: Machine, folder: Path) -> str:
    free = machine.free_bytes(folder)
    text = f"{free / 2**30:.1f} GiB free for {folder}"
    if free < FREE_BYTES_MIN:
        raise UserError(
            f"only {text}",
            f"Free some space: a node that cannot write stops. {FREE_BYTES_MIN >> 30} GiB should be free",
        )
    return text


def check_clock(machine: Machine, server: datetime | None, own: Sequence[tuple[str, datetime]]) -> Finding:
    """Compare this clock with the server's, or at least with the time of the last entry written here.

    Args:
        machine: has the clock.
        server: the server's clock just now, if the server reports it.
        own: the last entry written here, and its time.
    """
    return look("clock", lambda: _clock(machine.now(), server, own))


def _clock(now: datetime, server: datetime | None, own: Sequence[tuple[str, datetime]]) -> str:
    set_it = "Set this machine's clock and keep it in sync with NTP"
    what, latest = max(own, key=lambda each: each[1], default=("", now))
    if latest - now > SKEW_MAX:
        raise UserError(
            f"this clock says {_moment(now)}, but {what} was written here at {_moment(latest)}: the clock is behind "
            "now, or was ahead then",
            set_it,
        )
    if server is None:
        so_far = f"; it is not earlier than {what} of {_moment(latest)}" if own else ""
        raise NotChecked(
            f"there is no other clock to compare with{so_far}",
            "Compare it by hand or with `timedatectl`; NTP keeps it in sync",
        )
    skew = abs(now - server)
    if skew > SKEW_MAX:
        raise UserError(
            f"this clock says {_moment(now)}, the server's says {_moment(server)}: they are "
            f"{skew.total_seconds():.0f} s apart",
            set_it + ", or the server's",
        )
    return f"within {skew.total_seconds() + 1:.0f} s of the server's"


def _moment(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
