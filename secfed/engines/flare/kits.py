"""Makes FLARE's start-up kits for a study's roster and narrows them to what a study needs.

A kit is the folder that a server, a site or an operator starts from: certificates, addresses, and FLARE's local rules.
FLARE makes the kits (`nvflare.lighter`); this module adds our rules:

- a job may name only the classes of this package that a study needs; this is enforced;
- no job brings code: nobody has the "byoc" right;
- the server's operator may submit, abort and view jobs at the server; at a site, its only right is to have a job run
  there: no shell, no logs, no statistics, no errors, no restart;
- logs are limited in size and rate (`logs`);
- a site serves only the requests of a job (`served`), tells its owner which jobs it refuses (`deployer`), streams no
  logs, and restarts its own job processes (`launcher`); the server resubmits a job that was cut short (`keeper`).

The rules are in a kit's `local/`, which belongs to the kit's owner. Certificates are not changed.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvflare.lighter.prov_utils import prepare_builders
from nvflare.lighter.provision import prepare_project
from nvflare.lighter.provisioner import Provisioner

from secfed.engines.flare.backdated import backdate
from secfed.engines.flare.logs import log_settings
from secfed.engines.flare.settings import CLIENT_DEPLOYER, CLIENT_LAUNCHER, CONTROLLER, EXECUTOR, KEEPER
from secfed.errors import UserError
from secfed.files.whole import json_text, write_whole

OPERATOR, ORGANISATION, ROLE = "operator@secfed.example", "aggregator", "lead"
_PROJECT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_RIGHTS_AT_SERVER = {
    "submit_job": "any",
    "manage_job": "any",
    "view": "any",
    "operate": "any",
    "download_job": "none",
    "clone_job": "none",
    "shell_commands": "none",
    "byoc": "none",
    "server-predeployed-flwr": "none",
}
_RIGHTS_AT_SITE = {**dict.fromkeys(_RIGHTS_AT_SERVER, "none"), "submit_job": "any", "manage_job": "any"}


@dataclass(frozen=True, slots=True)
class Federation:
    """The participants to connect."""

    project: str
    """The federation's name; it is in every certificate."""
    host: str
    """The server's name or address, as the sites dial it."""
    port: int
    sites: tuple[str, ...]
    """The site names on the study's roster."""


def project_of(federation: Federation, participants: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """FLARE's project definition for these participants."""
    return {
        "api_version": 3,
        "name": federation.project,
        "description": "",
        "participants": list(participants),
        "builders": [
            {
                "path": "nvflare.lighter.impl.workspace.WorkspaceBuilder",
                "args": {"template_file": ["master_template.yml"]},
            },
            {
                "path": "nvflare.lighter.impl.static_file.StaticFileBuilder",
                "args": {"config_folder": "config", "scheme": "grpc"},
            },
            {"path": "nvflare.lighter.impl.cert.CertBuilder"},
            {"path": "nvflare.lighter.impl.signature.SignatureBuilder"},
        ],
    }


def server_of(federation: Federation) -> dict[str, Any]:
    """The server as a participant."""
    return {
        "name": federation.host,
        "type": "server",
        "org": ORGANISATION,
        "fed_learn_port": federation.port,
        "admin_port": federation.port,
        "default_host": federation.host,
    }


def operator_of() -> dict[str, Any]:
    """The server's operator as a participant."""
    return {"name": OPERATOR, "type": "admin", "org": ORGANISATION, "role": ROLE}


def site_of(name: str) -> dict[str, Any]:
    """A site as a participant."""
    return {"name": name, "type": "client", "org": name.replace("-", "_"), "allow_log_streaming": False}


def make_kits(federation: Federation, folder: Path) -> dict[str, Path]:
    """Make the kit of every participant, private key included, and narrow it.

    Args:
        federation: the participants to connect.
        folder: a new folder; its `certificates/` keeps what is needed to add a site.

    Returns:
        The kits by participant: "server", "operator", and each site's name.

    Raises:
        UserError: a name is not allowed, the folder is not empty, or FLARE fails.
    """
    if not _PROJECT.fullmatch(federation.project):
        raise UserError(
            f"{federation.project!r} is not a valid name for a federation",
            "Use lower-case letters, digits and hyphens, at most 63 of them",
        )
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} exists and is not empty", "Choose a new folder for the kits")
    backdate()
    participants = [server_of(federation), operator_of(), *(site_of(name) for name in federation.sites)]
    definition = project_of(federation, participants)
    try:
        project = prepare_project(definition)
        with redirect_stdout(io.StringIO()):  # FLARE prints the folder where it first puts them
            context = Provisioner(str(folder / "certificates"), prepare_builders(definition)).provision(project)
        made = Path(context.get_result_location())
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(f"FLARE made no kits: {error}", "Fix that, remove the folder, and try again") from error
    names = {"server": federation.host, "operator": OPERATOR, **{name: name for name in federation.sites}}
    kits = {kit: (made / name).rename(folder / kit) for kit, name in names.items()}
    for path in kits.values():
        narrow(path)
    return kits


def narrow(kit: Path) -> None:
    """Put our rules into a kit, whoever made it. Doing it twice is harmless.

    Raises:
        UserError: it is not the kit of a server, a site or an operator.
    """
    local = kit / "local"
    for path in kit.rglob("*"):
        path.chmod(0o700 if path.is_dir() or path.suffix == ".sh" else 0o600)
    kit.chmod(0o700)
    if (kit / "startup" / "fed_server.json").exists():
        resources = _server_resources(_read(local / "resources.json.default"), kit)
        rights = _RIGHTS_AT_SERVER
    elif (kit / "startup" / "fed_client.json").exists():
        resources = _site_resources(_read(local / "resources.json.default"))
        rights = _RIGHTS_AT_SITE
    elif (kit / "startup" / "fed_admin.json").exists():
        return
    else:
        raise UserError(f"{kit} is not a start-up kit", "Pass a folder that provisioning made")
    permissions = {ROLE: rights, **dict.fromkeys(("project_admin", "org_admin", "member"), "none")}
    _put(local / "resources.json", resources)
    _put(local / "authorization.json", {"format_version": "1.0", "permissions": permissions})
    _put(local / "log_config.json", log_settings())
    (local / "privacy.json.sample").unlink(missing_ok=True)


def _put(path: Path, value: Any) -> None:
    """Write a file only if it differs: a program must start from its kit even on a full disk."""
    data = json_text(value).encode()
    if not path.exists() or path.read_bytes() != data:
        write_whole(path, data)


def _site_resources(resources: dict[str, Any]) -> dict[str, Any]:
    kept = [each for each in resources["components"] if each["id"] not in ("site_log_streamer", "process_launcher")]
    return {
        **resources,
        "class_list_enforcement_mode": "enforce",
        "class_allow_list": [EXECUTOR],
        "allow_log_streaming": False,
        "components": [
            *kept,
            {"id": "process_launcher", "path": CLIENT_LAUNCHER, "args": {}},
            {"id": "app_deployer", "path": CLIENT_DEPLOYER, "args": {}},
        ],
    }


def _server_resources(resources: dict[str, Any], kit: Path) -> dict[str, Any]:
    """The server's rules. Its stores go inside the kit, so that two servers on one machine do not share them."""
    kept = [each for each in resources["components"] if each["id"] != "log_receiver"]
    for each in kept:
        if each["id"] == "job_manager":
            each["args"]["uri_root"] = str(kit.resolve() / "jobs")
    resources["snapshot_persistor"]["args"]["storage"]["args"]["root_dir"] = str(kit.resolve() / "snapshots")
    return {
        **resources,
        "class_list_enforcement_mode": "enforce",
        "class_allow_list": [CONTROLLER],
        "components": [*kept, {"id": "study_keeper", "path": KEEPER, "args": {}}],
    }


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}", "The kit is incomplete: make it again") from error
