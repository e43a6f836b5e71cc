"""A study is drawn up: a commented file to fill in, and its roster, entry by entry."""

from __future__ import annotations

import stat
from pathlib import Path

from pydantic import ValidationError

from crypto.identity import PublicIdentity
from secfed.errors import UserError
from secfed.files import write_whole
from secfed.study import RosterEntry, first_problem
from secfed.templates import render
from secfed.toml_files import TOML_BYTES_MAX, parse_toml

_NOISE_TO_BEGIN_WITH = 1.0
"""Keeps the draft's epsilon with room; how much is needed is known once the roster is."""


def write_draft(path: Path, name: str, base: Path | None) -> None:
    """Write a study with the demo's figures to a new file. Labels and roster are to be filled in, and without a model
    its digest.

    Args:
        path: the new file.
        name: the study's.
        base: the base model's folder.

    Raises:
        UserError: the name is none, the folder no base model, or the file exists or cannot be written.
    """
    _checked(name, "0" * 64, 1)
    text = _draft(path, name, base)
    try:
        with path.open("x") as file:
            file.write(text)
    except FileExistsError as error:
        raise UserError(f"{path} exists already", "Give another file with --out") from error
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})", "Give another file with --out") from error


def _draft(path: Path, name: str, base: Path | None) -> str:
    from secfed.demo import DemoSettings

    digest, called = "", "model"
    if base is not None:
        from secfed.models import base_digest  # loads torch

        digest, folder, own = base_digest(base), base.resolve(), path.parent.resolve()
        called = folder.relative_to(own).as_posix() if folder.is_relative_to(own) else folder.name
    return render(
        "demo_study.toml.j2",
        draft=True,
        study_name=name,
        purpose="",
        base=called,
        digest=digest,
        settings=DemoSettings(),
        labels=[],
        noise_multiplier=_NOISE_TO_BEGIN_WITH,
        hospitals=[],
    )


def add_to_roster(path: Path, name: str, identity: str, patients: int) -> PublicIdentity:
    """Add a hospital to the end of a study's file. Everything that stands in it stays as it is, comments included.

    Args:
        path: a study, finished or not.
        name, identity, patients: as `secfed.study.RosterEntry` has them.

    Returns:
        The identity, whose fingerprint is to be compared.

    Raises:
        UserError: the entry is none, is on the roster already, or the file cannot be added to.
    """
    entry = _checked(name, identity, patients)
    try:
        with path.open("rb") as file:
            data = file.read(TOML_BYTES_MAX + 1)
    except OSError as error:
        raise UserError(
            f"the study file {path} cannot be read ({error.strerror})", "Draw one up with `secfed study init NAME`"
        ) from error
    values = parse_toml(data, path)
    roster = values.get("roster", [])
    for other in roster if isinstance(roster, list) else []:
        if isinstance(other, dict) and (other.get("name") == name or other.get("identity") == identity):
            raise UserError(
                f"{name}, or its identity, is on the roster of {path} already",
                "Take the old entry out first if it is to change",
            )
    table = f'[[roster]]\nname = "{name}"\nidentity = "{identity}"\npatients = {patients}\n'
    longer = data.rstrip(b"\n") + b"\n\n" + table.encode()
    expected = {**values, "roster": [*roster, entry.model_dump()]} if isinstance(roster, list) else None
    try:
        fits = parse_toml(longer[: TOML_BYTES_MAX + 1], path) == expected
    except UserError:
        fits = False
    if not fits:
        raise UserError(
            f"{path} has its roster in another form than [[roster]] tables",
            "Write each of its hospitals as a [[roster]] table, and run the command again",
        )
    try:
        write_whole(path, longer, stat.S_IMODE(path.stat().st_mode))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})", "Check its folder and permissions") from error
    return PublicIdentity(bytes.fromhex(identity))


def _checked(name: str, identity: str, patients: int) -> RosterEntry:
    try:
        return RosterEntry(name=name, identity=identity, patients=patients)
    except ValidationError as error:
        raise UserError(
            f"this is no entry of a roster: {first_problem(error)}",
            "Names are small letters, digits and hyphens; an identity is the 64 digits that `secfed node init` printed",
        ) from error
