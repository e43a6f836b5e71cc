"""Writes a new study: a commented file to fill in, and its roster, entry by entry."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from crypto.identity import PublicIdentity
from protocols.parameters import ROSTER_MAX, ROSTER_MIN
from secfed.errors import UserError
from secfed.files.reading import read_at_most
from secfed.files.templates import render
from secfed.files.toml import TOML_BYTES_MAX, as_json, parse_toml
from secfed.files.whole import check_file, write_whole
from secfed.study.account import smallest_noise
from secfed.study.base import base_digest
from secfed.study.base_files import check_base_files
from secfed.study.draft_figures import Known, StudyFigures, figures
from secfed.study.manifest import PATIENTS_MAX, RosterEntry, Study, first_problem

_MADE_UP = tuple(f"{number:064x}" for number in range(1, 1001))
"""Made-up identities, to compute the noise before there is a roster."""


def write_draft(path: Path, name: str, base: Path | None, known: Known | None = None) -> None:
    """Write a study to a new file, with values that fit together and keep their promise.

    People fill in the rest: labels, roster, and without a model its digest and the names of its layers.

    Args:
        path: the new file.
        name: the study's name.
        base: the base model's folder.
        known: the number of sites and patients, and the mode; the demo's by default.

    Raises:
        UserError: the name or the base model is not valid, no study fits these numbers, or the file exists or cannot
            be written.
    """
    roster_entry(name, "0" * 64, 1)
    known = checked_known(known or Known())
    if path.exists():
        raise _exists(path)
    check_file(path)
    text = _draft(path, name, base, known)
    try:
        with path.open("x") as file:
            file.write(text)
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})", "Give another file with --out") from error


def checked_known(known: Known) -> Known:
    """The same values, checked.

    Raises:
        UserError: no study can have so many sites or patients.
    """
    if not (ROSTER_MIN <= known.sites <= ROSTER_MAX and known.patients >= known.sites):
        raise UserError(
            f"a study cannot have {known.sites} sites with {known.patients} patients in total",
            f"Give --sites from {ROSTER_MIN} to {ROSTER_MAX}, and --patients for all of them together",
        )
    if known.patients // known.sites > PATIENTS_MAX:
        raise UserError(
            f"{known.patients} patients at {known.sites} sites are more than {PATIENTS_MAX} per site",
            "Give a rough number for --patients, all sites together",
        )
    return known


def _exists(path: Path) -> UserError:
    return UserError(f"{path} exists already", "Give another file with --out")


def _draft(path: Path, name: str, base: Path | None, known: Known) -> str:
    digest, called = "", "model"
    if base is not None:
        digest, folder, own = base_digest(base), base.resolve(), path.parent.resolve()
        check_base_files(base)
        called = folder.relative_to(own).as_posix() if folder.is_relative_to(own) else folder.name
    settings = figures(known, base)
    each = known.patients // known.sites
    roster = [
        RosterEntry(name=f"site-{number}", identity=identity, patients=each)
        for number, identity in enumerate(_MADE_UP[: known.sites], start=1)
    ]  # as many sites as planned, so that the draft's noise keeps its epsilon, too
    return render(
        "secfed.study",
        "study.toml.j2",
        draft=True,
        study_name=name,
        purpose="",
        base=called,
        digest=digest,
        labels=[],
        settings=settings,
        known=known,
        noise_multiplier=smallest_noise(drawn_up(settings, name, called, digest or f"sha256:{'0' * 64}", roster)),
        hospitals=[],
    )


def drawn_up(settings: StudyFigures, name: str, base: str, digest: str, roster: Sequence[RosterEntry]) -> Study:
    """A study with these values, with placeholders for labels and noise.

    Args:
        settings: its values.
        name: its name.
        base, digest: as in `secfed.study.manifest.ModelSection`.
        roster: the sites.

    Raises:
        UserError: the values do not fit together.
    """
    text = render(
        "secfed.study",
        "study.toml.j2",
        draft=False,
        study_name=name,
        purpose="",
        base=base,
        digest=digest,
        labels=["no", "yes"],
        settings=settings,
        noise_multiplier=1.0,
        hospitals=[{"name": entry.name, "identity": entry.identity, "nominal": entry.patients} for entry in roster],
    )
    try:
        return Study.model_validate_json(as_json(parse_toml(text.encode(), Path(name)), Path(name)))
    except ValidationError as error:
        raise UserError(
            f"no valid study has these values: {first_problem(error)}", "Fix this, or give other values"
        ) from error


def add_to_roster(path: Path, name: str, identity: str, patients: int) -> PublicIdentity:
    """Add a site to the end of a study's file. The rest of the file does not change, comments included.

    Args:
        path: a study, finished or not.
        name, identity, patients: as in `secfed.study.manifest.RosterEntry`.

    Returns:
        The identity. People compare its fingerprint.

    Raises:
        UserError: the entry is not valid or already on the roster, or the file cannot be changed.
    """
    entry = roster_entry(name, identity, patients)
    data = read_at_most(path, TOML_BYTES_MAX, "the study file", "Write one with `secfed study init NAME`")
    values = parse_toml(data, path)
    if not values:
        raise UserError(f"{path} is not a study: the file is empty", "Write one with `secfed study init NAME`")
    roster = values.get("roster", [])
    for other in roster if isinstance(roster, list) else []:
        if isinstance(other, dict) and (other.get("name") == name or other.get("identity") == identity):
            raise UserError(
                f"{name}, or its identity, is already on the roster of {path}",
                "To change an entry, remove the old one first",
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
            f"the roster in {path} is not written as [[roster]] tables",
            "Write each site as a [[roster]] table, and run the command again",
        )
    try:
        write_whole(path, longer, stat.S_IMODE(path.stat().st_mode))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})", "Check its folder and permissions") from error
    return PublicIdentity(bytes.fromhex(identity))


def roster_entry(name: str, identity: str, patients: int) -> RosterEntry:
    """One entry of a roster.

    Raises:
        UserError: it is not valid.
    """
    try:
        return RosterEntry(name=name, identity=identity, patients=patients)
    except ValidationError as error:
        raise UserError(
            f"invalid roster entry: {first_problem(error)}",
            "Names are small letters, digits and hyphens; an identity is the 64 digits that `secfed node init` printed",
        ) from error
