"""A node's owner says that a data file was changed on purpose: the studies on it go on with the file as it is now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from secfed.errors import UserError
from secfed.node.data_watch import data_digest
from secfed.node.home import Home


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of one study that trains on the file."""

    study: str
    digest: bytes
    problem: str
    """Why it does not go on with the file as it is now; empty if it does."""


def accept_data(home: Home, name: str) -> list[Accepted]:
    """Let every approved study that trains on a data file go on with it as it is now, if it still fits the study.

    Raises:
        UserError: no data is called so, the file cannot be read, or it is being written just now.
    """
    dataset = home.node.dataset(name)
    digest, found = data_digest(Path(dataset.file)), []
    for study in home.digests():
        try:
            kept = home.stored(study)
        except UserError:
            continue  # `secfed doctor` and `secfed node status` say so
        if kept.data != name:
            continue
        try:
            home.site(kept.study, dataset)
        except UserError as error:
            found.append(Accepted(kept.study.name, study, str(error)))
            continue
        found.append(Accepted(kept.study.name, study, ""))
    if data_digest(Path(dataset.file)) != digest:
        raise UserError(f"{dataset.file} was written while it was read", "Run it again once the file is complete")
    for each in found:
        if not each.problem:
            home.choose(each.digest, name, digest)
    return found
