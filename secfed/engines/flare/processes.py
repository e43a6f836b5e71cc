"""Runs a kit: FLARE's server or client, in a process of its own that its starter can end. No nvflare.

FLARE's `start.sh` starts a loop that starts the program; a service manager, or the demo, needs the program itself.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from secfed.aggregator import home as aggregator_home
from secfed.errors import UserError
from secfed.node import home as node_home

_RUN = ("-u", "-m")


def become(kit: Path, home: Path) -> NoReturn:
    """Replace this process by a kit's program, until that is ended.

    Args:
        kit: the server's or a site's. Its rules are narrowed first, because a moved kit has its stores elsewhere and a
            kit made by hand lacks our rules.
        home: the aggregator's or the node's home.

    Raises:
        UserError: it is not a kit, it cannot connect (for example, its certificate has expired), or the server's port
            is in use.
    """
    from secfed.engines.flare.kit_watch import begin

    if is_server(kit):
        from secfed.engines.flare.ports import check_ports

        check_ports(kit)
    from secfed.engines.flare.kits import narrow  # loads nvflare

    begin(kit, home, "server" if is_server(kit) else "site")
    narrow(kit)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would contain records, keys and masks
    program = command(kit)
    os.execve(program[0], program, environment(kit, home))  # noqa: S606 - our own interpreter


def is_server(kit: Path) -> bool:
    """Whether this kit is the server's; otherwise it is a site's.

    Raises:
        UserError: it is neither.
    """
    if (kit / "startup" / "fed_server.json").exists():
        return True
    if (kit / "startup" / "fed_client.json").exists():
        return False
    raise UserError(f"{kit} is not the start-up kit of a server or a site", "Pass a folder that provisioning made")


def command(kit: Path) -> list[str]:
    """The program that runs a kit, and its arguments. They contain no secret."""
    workspace = str(kit.resolve())
    common = ["-m", workspace, "-s"]
    if is_server(kit):
        module, settings = "nvflare.private.fed.app.server.server_train", "fed_server.json"
        values = ["secure_train=true", "org=aggregator", "config_folder=config"]
    else:
        module, settings = "nvflare.private.fed.app.client.client_train", "fed_client.json"
        name = site_name(kit)
        values = ["secure_train=true", f"uid={name}", f"org={name.replace('-', '_')}", "config_folder=config"]
    return [sys.executable, *_RUN, module, *common, settings, "--set", *values]


def site_name(kit: Path) -> str:
    """The name of this kit's site.

    Raises:
        UserError: the kit does not name it.
    """
    try:
        return str(json.loads((kit / "startup" / "fed_client.json").read_text())["client"]["fqsn"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{kit} does not name the site that it is for", "Make the kit again") from error


def environment(kit: Path, home: Path) -> Mapping[str, str]:
    """The program's environment: its home, and where a server keeps its jobs.

    Args:
        kit: the kit.
        home: the node's or the aggregator's home.
    """
    # FLARE starts many threads, and glibc would give every few of them a memory arena that only grows.
    settings = dict(os.environ, OMP_WAIT_POLICY="PASSIVE", MALLOC_ARENA_MAX="2")
    if is_server(kit):
        settings[aggregator_home.VARIABLE] = str(home.resolve())
        settings["NVFL_JOB_STORE_ROOT"] = str(kit.resolve() / "jobs")
    else:
        settings[node_home.VARIABLE] = str(home.resolve())
    return settings
