"""What runs a kit: FLARE's server or client, in a process of its own that its starter can end. No nvflare.

FLARE's `start.sh` starts a loop that starts the program; a service manager, or the demo, wants the program itself.
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
    """Run a kit's program in the place of this one, until it is ended.

    Args:
        kit: the server's, or a site's. Its rules are narrowed first: one that was moved has its stores elsewhere, and
            one that was made by hand has not our rules.
        home: the aggregator's home, or the node's.

    Raises:
        UserError: it is no kit, it cannot connect, as when its certificate has expired, or somebody has the server's
            port.
    """
    from secfed.engines.flare.kit_watch import begin

    if is_server(kit):
        from secfed.engines.flare.ports import check_ports

        check_ports(kit)
    from secfed.engines.flare.kits import narrow  # loads nvflare

    begin(kit, home, "server" if is_server(kit) else "site")
    narrow(kit)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # an image of the memory has records, keys and masks in it
    program = command(kit)
    os.execve(program[0], program, environment(kit, home))  # noqa: S606 - our own interpreter


def is_server(kit: Path) -> bool:
    """Whether this kit is the server's; else it is a site's.

    Raises:
        UserError: it is neither.
    """
    if (kit / "startup" / "fed_server.json").exists():
        return True
    if (kit / "startup" / "fed_client.json").exists():
        return False
    raise UserError(f"{kit} is no start-up kit of a server or a site", "Give a folder that provisioning made")


def command(kit: Path) -> list[str]:
    """The program that runs a kit, and its arguments. No secret is among them."""
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
    """What the site of this kit is called.

    Raises:
        UserError: the kit does not say.
    """
    try:
        return str(json.loads((kit / "startup" / "fed_client.json").read_text())["client"]["fqsn"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{kit} does not say which site it is for", "Make the kit again") from error


def environment(kit: Path, home: Path) -> Mapping[str, str]:
    """What the program finds in its environment: its home, and where a server keeps its jobs.

    Args:
        kit: the kit.
        home: the node's home, or the aggregator's.
    """
    # FLARE starts a thread for nearly everything, and glibc would give every few of them an arena that only grows.
    settings = dict(os.environ, OMP_WAIT_POLICY="PASSIVE", MALLOC_ARENA_MAX="2")
    if is_server(kit):
        settings[aggregator_home.VARIABLE] = str(home.resolve())
        settings["NVFL_JOB_STORE_ROOT"] = str(kit.resolve() / "jobs")
    else:
        settings[node_home.VARIABLE] = str(home.resolve())
    return settings
