"""Certificates for participants whose private keys never leave them: FLARE's distributed provisioning. No nvflare
imported.

    organiser   found      makes the federation's certificate authority, and the profile that all of them share
    site        request    makes a key, which stays here, and a request for a certificate
    organiser   approve    signs the request, if the roster has the site
    site        assemble   makes the kit from it, once the authority's fingerprint has been compared by telephone

FLARE's own command line does the work (`nvflare cert`, `nvflare package`), in a separate process, with certificates
that begin two days earlier (`backdated`); its output is read as JSON. At the end the kit gets our rules
(`kits.narrow`). `renewal` makes new certificates for the same keys.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from secfed.errors import UserError
from secfed.files.reading import read_at_most
from secfed.files.whole import check_new, json_text, whole_or_gone
from secfed.models.libraries import how_to_add
from secfed.study.manifest import Name, first_problem
from secfed.study.sections import Section

PROFILE, AUTHORITY, SIGNED = "federation.json", "authority", "signed"
_SECONDS = 120.0
_SIZE_MAX = 1 << 20
_REQUEST_NAME = re.compile(r"[A-Za-z0-9@.-]{1,100}\.request\.zip")


class Profile(Section):
    """What every participant must know: the file `federation.json`. Nothing in it is secret."""

    format: int = Field(default=1, ge=1, le=1)
    project: Name
    host: str = Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9.-]+$")
    port: int = Field(ge=1, le=65_535)
    sites: tuple[Name, ...] = Field(min_length=1)
    """The site names from the study's roster."""
    fingerprint: str = Field(default="", max_length=200)
    """Fingerprint of the authority's certificate, to be compared by telephone."""


@dataclass(frozen=True, slots=True)
class Participant:
    """A participant that requests a certificate."""

    name: str
    kind: str
    """FLARE's type: server, client or admin."""
    organisation: str
    role: str = ""

    def definition(self, profile: Profile) -> dict[str, Any]:
        """The request as FLARE reads it."""
        endpoint = {"host": profile.host, "fed_learn_port": profile.port, "admin_port": profile.port}
        entry: dict[str, Any] = {"name": self.name, "type": self.kind, "org": self.organisation}
        if self.kind == "server":
            entry |= {"default_host": profile.host, "fed_learn_port": profile.port, "admin_port": profile.port}
        else:
            entry |= {"server": endpoint} | ({"role": self.role} if self.role else {})
        return {"name": profile.project, "participants": [entry]}


def read_profile(path: Path) -> Profile:
    """Read `federation.json`. Raises UserError if it cannot be read or is invalid."""
    data = read_at_most(path, _SIZE_MAX, "", "Ask the federation's organiser for the file, or give its path")
    try:
        return Profile.model_validate_json(data)
    except ValidationError as error:
        raise UserError(f"{path}: {first_problem(error)}", "Ask the federation's organiser for a new copy") from error


def found(profile: Profile, folder: Path) -> Profile:
    """Make the certificate authority in `folder/authority`, and the profile beside it. Returns the profile, with the
    fingerprint.

    Raises:
        UserError: FLARE refuses.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority = folder / AUTHORITY
    shared = _write_shared(profile, folder)
    # No --org: FLARE 2.9.0 puts it into the authority's name but not into what it signs, and such a chain does not
    # verify.
    made = _nvflare("cert", "init", "--profile", str(shared), "-o", str(authority))
    authority.chmod(0o700)
    whole = profile.model_copy(update={"fingerprint": str(made["rootca_fingerprint_sha256"])})
    (folder / PROFILE).write_text(json_text(whole.model_dump(mode="json")))
    return whole


def request(profile: Profile, participant: Participant, folder: Path) -> Path:
    """Make a key and a certificate request in a new folder. Returns the request file; the key beside it stays here.

    Raises:
        UserError: the folder is in use, or FLARE refuses.
    """
    check_new(folder)
    with whole_or_gone(folder), tempfile.TemporaryDirectory(prefix="secfed-") as scratch:
        definition = Path(scratch) / "participant.yaml"
        definition.write_text(json.dumps(participant.definition(profile)))  # JSON is YAML
        made = _nvflare("cert", "request", "-p", str(definition), "--out", str(folder), "--force")
    return Path(str(made["request_zip"]))


def approve(folder: Path, request_file: Path) -> Path:
    """Sign a request with the authority in this folder. Returns the signed file, to be sent back.

    Raises:
        UserError: the requester is not on the roster or already has a certificate, or FLARE refuses.
    """
    profile = read_profile(folder / PROFILE)
    if not _REQUEST_NAME.fullmatch(request_file.name) or not request_file.is_file():
        raise UserError(f"{request_file} is not a certificate request", "Name the NAME.request.zip that the site sent")
    with tempfile.TemporaryDirectory(prefix="secfed-") as scratch:
        signed = Path(scratch) / request_file.name.replace(".request.zip", ".signed.zip")
        shared = str(folder / "profile.yaml")
        command = ["cert", "approve", str(request_file), "-c", str(folder / AUTHORITY), "--profile", shared]
        made = _nvflare(*command, "--out", str(signed))
        name = str(made["name"])
        if made["kind"] == "site" and name not in profile.sites:
            raise UserError(
                f"{request_file} requests a certificate for {name}, who is not on the study's roster",
                "Nothing usable was signed. Find out who sent the request",
            )
        kept = folder / SIGNED / f"{name}.signed.zip"
        if kept.exists():
            raise UserError(
                f"{name} already has a certificate: {kept}",
                "Ask the site whether it lost its key. If so, move the file away and approve again",
            )
        kept.parent.mkdir(exist_ok=True)
        shutil.copyfile(signed, kept)
    return kept


def assemble(signed: Path, request_folder: Path, fingerprint: str, target: Path) -> Path:
    """Make the kit from the organiser's signed file and the key that stayed here, and add our rules.

    Args:
        signed: NAME.signed.zip.
        request_folder: the folder where `request` put the key.
        fingerprint: the authority's fingerprint, as the organiser read it over the telephone.
        target: a new folder for the kit.

    Raises:
        UserError: the fingerprint differs, the files do not belong together, or FLARE refuses.
    """
    from secfed.engines.flare.kits import narrow

    if target.exists():
        raise UserError(f"{target} already exists", "Choose a new folder for the kit")
    if not (signed.is_file() and request_folder.is_dir()):
        raise UserError(
            f"there is no file {signed} or no folder {request_folder}",
            "Name the NAME.signed.zip from the organiser, and the folder that `secfed federation request` made",
        )
    with whole_or_gone(target.parent):
        with tempfile.TemporaryDirectory(prefix="secfed-", dir=target.parent) as scratch:
            command = ["package", str(signed), "-w", scratch, "--request-dir", str(request_folder)]
            made = _nvflare(*command, "--fingerprint", fingerprint)
            Path(str(made["output_dir"])).rename(target)
        narrow(target)
    return target


def _write_shared(profile: Profile, folder: Path) -> Path:
    """The profile as FLARE reads it."""
    path = folder / "profile.yaml"
    server = {"host": profile.host, "fed_learn_port": profile.port, "admin_port": profile.port}
    values = {"name": profile.project, "scheme": "grpc", "connection_security": "mtls", "server": server}
    path.write_text(json.dumps(values))  # JSON is YAML
    return path


def _nvflare(*arguments: str) -> dict[str, Any]:
    """Run FLARE's command line. Returns the data of its answer.

    Raises:
        UserError: FLARE refuses; the text contains its message.
    """
    command: Sequence[str] = (sys.executable, "-m", "secfed.engines.flare.backdated", *arguments, "--format", "json")
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)  # noqa: S603 - no shell
        answer = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
        raise UserError(
            f"`nvflare {arguments[0]} {arguments[1]}` gave no readable answer ({type(error).__name__})",
            f"Run the command by hand to see why, and check that nvflare is installed: {how_to_add('flare')}",
        ) from error
    if answer.get("status") != "ok":
        said = " ".join(str(answer[key]) for key in ("message", "detail") if answer.get(key))
        raise UserError(f"FLARE refuses: {said}", str(answer.get("hint") or "Fix this and try again").rstrip("."))
    return dict(answer["data"])
