"""`secfed node data accept`: the owner confirms an intended change to a data file, and its studies continue with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from secfed.errors import UserError
from secfed.node.data_watch import data_digest
from secfed.node.home import Home


@dataclass(frozen=True, slots=True)
class Accepted:
    """The outcome for one study that trains on the file."""

    study: str
    digest: bytes
    problem: str
    """Why the study cannot continue with the changed file; empty if it can."""


def accept_data(home: Home, name: str) -> list[Accepted]:
    """Let every approved study that trains on a data file continue with the current file, if the file still fits the
    study.

    Raises:
        UserError: no data file has this name, the file cannot be read, or another program is writing it.
    """
    dataset = home.node.dataset(name)
    digest, found = data_digest(Path(dataset.file)), []
    for study in home.digests():
        try:
            kept = home.stored(study)
        except UserError:
            continue  # `secfed doctor` and `secfed node status` report it
        if kept.data != name:
            continue
        try:
            home.site(kept.study, dataset)
        except UserError as error:
            found.append(Accepted(kept.study.name, study, str(error)))
            continue
        found.append(Accepted(kept.study.name, study, ""))
    if data_digest(Path(dataset.file)) != digest:
        raise UserError(
            f"{dataset.file} changed while it was being read", "Run the command again once the file is complete"
        )
    for each in found:
        if not each.problem:
            home.choose(each.digest, name, digest)
    return found
