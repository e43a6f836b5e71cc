"""The files of a FHIR bulk export, and the patients in them: line by line, never a file as a whole.

A folder with one or several files for each type of resource, as `Patient.ndjson`, `Condition.000.ndjson` or
`1.Composition.ndjson.gz`; what lies there for other types is not read.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from secfed.models.data import jsonl
from secfed.models.data.faults import BadRow, DataError
from secfed.models.data.rows import Row

RESOURCE_BYTES_MAX = 1 << 24
"""Of one line: a resource with its attachments. A longer one is told and passed over."""
_NAME = re.compile(r"(.+)\.(?:ndjson|jsonl)(?:\.gz)?")
_WHOLE_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")
_REFERENCE = re.compile(r"Patient/([A-Za-z0-9.-]{1,64})(?:/_history/[A-Za-z0-9.-]{1,64})?")


def files_of(folder: Path, resource: str) -> list[Path]:
    """The export's files for one type of resource, in the order of their names. Raises DataError."""
    try:
        found = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise DataError(
            f"the folder {folder} cannot be read ({error.strerror})", "Check it and its permissions"
        ) from error
    return [path for path in found if (name := _NAME.fullmatch(path.name)) and resource in re.split(r"[._-]", name[1])]


def resources(folder: Path, resource: str) -> Iterator[Row | BadRow]:
    """All resources of one type. What is another one comes as a `BadRow`.

    Raises:
        DataError: there is no file of them, or one cannot be read.
    """
    paths = files_of(folder, resource)
    if not paths:
        raise DataError(f"{folder} has no {resource}.ndjson", "Give the folder of a FHIR R4 bulk export in NDJSON")
    for path in paths:
        try:
            with _opened(path) as file:
                for row in jsonl.rows(file, most=RESOURCE_BYTES_MAX):
                    yield _placed(path.name, row, resource)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise DataError(f"{path} is no whole gzip file", "Copy it again, or unpack it with `gunzip`") from None
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror})", "Check it and its permissions") from error


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _placed(name: str, row: Row | BadRow, resource: str) -> Row | BadRow:
    if isinstance(row, BadRow):
        return BadRow(f"{name}, {row.place}", row.what, row.next_step)
    if row.values.get("resourceType") != resource:
        return BadRow(f"{name}, {row.place}", f"is no {resource}", "Keep each type of resource in files of its own")
    return Row(f"{name}, {row.place}", row.values)


class People:
    """The patients of an export. Two resources that are linked as the same person's are one patient."""

    def __init__(self) -> None:
        self._same: dict[str, str] = {}
        self._linked: list[tuple[str, str, str]] = []

    def add(self, row: Row) -> None:
        """One more Patient. Raises BadRow."""
        name = row.values.get("id")
        if not isinstance(name, str) or not _WHOLE_ID.fullmatch(name):
            raise BadRow(row.place, "has no id as FHIR has them", "Export it again with its id")
        self._same.setdefault(name, name)
        links = row.values.get("link", [])
        for link in links if isinstance(links, list) else [None]:
            other = link.get("other") if isinstance(link, dict) else None
            reference = other.get("reference") if isinstance(other, dict) else None
            found = _REFERENCE.fullmatch(reference) if isinstance(reference, str) else None
            if found is not None:
                self._linked.append((name, found[1], row.place))
            elif not (isinstance(reference, str) and reference.startswith("RelatedPerson/")):
                raise BadRow(row.place, "has a link to no Patient", "Export it with links as Patient/ID, or without")

    def join_linked(self) -> Iterator[BadRow]:
        """Once all are added: whoever is linked is one. Gives the links to nobody."""
        for name, other, place in self._linked:
            if other in self._same:
                self._same[self._root(name)] = self._root(other)
            else:
                yield BadRow(place, "is linked to a Patient that the export does not have", "Export that one, too")
        self._linked.clear()

    def patient_of(self, row: Row) -> str:
        """The patient that a resource is about. Raises BadRow where it says none, or one that is not there."""
        subject = row.values.get("subject")
        reference = subject.get("reference") if isinstance(subject, dict) else None
        found = _REFERENCE.fullmatch(reference) if isinstance(reference, str) else None
        if found is None:
            raise BadRow(
                row.place,
                "has no subject.reference of the form Patient/ID",
                "Export it with the patient's reference: whose record it is, is not guessed",
            )
        if found[1] not in self._same:
            raise BadRow(
                row.place,
                "is about a Patient that the export does not have",
                "Export that patient, too: whose record it is, is not guessed",
            )
        return self._root(found[1])

    def __len__(self) -> int:
        return sum(name == root for name, root in self._same.items())

    def _root(self, name: str) -> str:
        while (above := self._same[name]) != name:
            self._same[name] = self._same[above]
            name = above
        return name


def reference_in(values: Any) -> str:
    """What a Reference says; empty where there is none."""
    reference = values.get("reference") if isinstance(values, dict) else None
    return reference if isinstance(reference, str) else ""
