"""Makes the folder that a simulation starts from, out of records in memory: study, base model, sites, test set.

Its layout is that of docs/own-study.md, and `prepare` reads it like any other. Identity keys are fresh, and each site's
policy allows the study and grants what it promises.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from crypto.identity import Identity
from secfed.errors import UserError
from secfed.files.templates import render
from secfed.files.whole import whole_or_gone
from secfed.node.keys import write_identity
from secfed.study.base import base_digest
from secfed.study.base_files import BASE_FILES, check_base_files
from secfed.study.changes import calibrated, names_noise, with_changes, write_study
from secfed.study.draft import checked_known, drawn_up, roster_entry
from secfed.study.draft_figures import Known, figures
from secfed.study.manifest import Study

TextRecord: TypeAlias = tuple[str, str, str] | Mapping[str, Any]
"""A patient's id, a text, and its label; or a row by its columns, as another kind of task needs it."""


def make_workspace(
    folder: Path,
    *,
    base: Path,
    labels: Sequence[str] = (),
    sites: Mapping[str, Iterable[TextRecord]],
    test: Iterable[TextRecord],
    name: str = "study",
    mode: Literal["distributed", "local"] = "distributed",
    **changes: Any,
) -> Path:
    """Make the folder of a study that can run in one process. Takes seconds, because the noise is calibrated.

    The values are the defaults of `secfed study init` for these numbers of sites and patients.

    Args:
        folder: a new one.
        base: the base model's folder; it is copied.
        labels: the classes, in order; none if `task=` among the changes says what is learnt.
        sites: each site's records, by the site's name (small letters, digits and hyphens).
        test: the held-out records on which the model is measured.
        name: the study's name.
        mode: how its promise is kept.
        changes: changed values, as for `Study.changed`.

    Returns:
        The study file. Each site's policy grants the epsilon that the study promises.

    Raises:
        UserError: the folder is not empty, the base model is unusable, or no study fits these values. Nothing is left
            behind.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not empty", "Choose a new folder for the workspace")
    check_base_files(base)
    records = {site: list(own) for site, own in sites.items()}
    identities = {site: Identity.generate() for site in records}
    study = _study(name, mode, base, records, identities)
    study = with_changes(study, {"task": {"labels": labels}}) if labels else study
    study = with_changes(study, changes)
    study = study if names_noise(changes) else calibrated(study)
    with whole_or_gone(folder):
        copy_base(base, folder / "model", BASE_FILES)
        for site in records:
            write_site(folder, study, site, identities[site], records[site])
        write_records(folder / "test.jsonl", test)
        write_study(study, folder / "study.toml")
    return folder / "study.toml"


def _study(
    name: str,
    mode: Literal["distributed", "local"],
    base: Path,
    records: Mapping[str, Sequence[TextRecord]],
    identities: Mapping[str, Identity],
) -> Study:
    """The study with a draft's values for these sites, before its noise is known."""
    counts = {site: len({_row(record)["patient"] for record in own}) for site, own in records.items()}
    known = checked_known(Known(len(records), sum(counts.values()), mode))
    roster = [roster_entry(site, identities[site].public.raw.hex(), rounded(count)) for site, count in counts.items()]
    return drawn_up(figures(known, base), name, "model", base_digest(base), roster)


def rounded(patients: int) -> int:
    """The rounded patient number for a roster: up to the next ten, or 5 for a handful."""
    return max(5, round(patients / 10) * 10)


def copy_base(base: Path, folder: Path, names: Sequence[str]) -> None:
    """Copy the base model files that match these name patterns into a new folder."""
    folder.mkdir(parents=True)
    for pattern in names:
        for path in filter(Path.is_file, base.glob(pattern)):
            shutil.copyfile(path, folder / path.name)


def write_site(folder: Path, study: Study, name: str, identity: Identity, records: Iterable[TextRecord]) -> None:
    """What one site of a simulation brings: its key, a policy with a budget for this study, and its records."""
    site = folder / "sites" / name
    site.mkdir(parents=True, mode=0o700)
    write_identity(site / "identity.key", identity)
    entry = study.roster[study.index_of(name)]
    (site / "policy.toml").write_text(render("secfed.engines.embedded", "policy.toml.j2", study=study, entry=entry))
    write_records(site / "patients.jsonl", records)


def write_records(path: Path, records: Iterable[TextRecord]) -> None:
    """Records as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(_row(record)) + "\n")


def _row(record: TextRecord) -> Mapping[str, Any]:
    if isinstance(record, Mapping):
        return record
    patient, text, label = record
    return {"patient": patient, "text": text, "label": label}
