"""Records from a FHIR export: one for each document, with its patient, its texts and its label.

The Patients are read first, then the Conditions, then the documents, one at a time. What stays in memory is ids and
labels. Nothing is guessed: a document whose patient is not known is an error; one without a text or a label is left
out, and counted by why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secfed.models.data.faults import BadRow
from secfed.models.data.fhir.export import People, reference_in, resources
from secfed.models.data.fhir.mapping import Column, ConditionsColumn, FhirMapping, SectionsColumn
from secfed.models.data.fhir.texts import Unusable, codes, decoded_attachment, objects, section_text
from secfed.models.data.rows import Row, Rows

_NOT_FOUND_TRUE = frozenset(("refuted", "entered-in-error"))
_WITHDRAWN = frozenset(("entered-in-error", "superseded", "cancelled"))
_MEND = "Have it exported again as FHIR R4, or take it out"


@dataclass(slots=True)
class Tally:
    """What was understood of a source, for its owner's eyes."""

    resources: Counter[str] = field(default_factory=Counter)
    """How many of each type were read."""
    left_out: Counter[str] = field(default_factory=Counter)
    """How many documents became no record, by why."""
    not_read: Counter[str] = field(default_factory=Counter)
    """How many attachments were not read, by why; their documents may have others."""
    patients: int = 0
    """In the source, with records or without."""


class _LeftOut(Exception):
    """A document becomes no record; the text says why."""


def rows(folder: Path, mapping: FhirMapping, patient_column: str, tally: Tally) -> Rows:
    """The records of an export, as rows with a text in every column of the mapping.

    Args:
        folder: of the export.
        mapping: what becomes a record, and how.
        patient_column: where the patient's id goes.
        tally: counts along.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    people = People()
    for row in _read(folder, "Patient", tally):
        if bad := row if isinstance(row, BadRow) else _problem(people, row):
            yield bad
    yield from people.join_linked()
    tally.patients = len(people)
    labels: dict[str, _Labels] = {}
    for name, column in mapping.columns.items():
        if isinstance(column, ConditionsColumn):
            labels[name] = _Labels(column)
    if labels:
        for row in _read(folder, "Condition", tally):
            if bad := row if isinstance(row, BadRow) else _add_condition(labels, people, row):
                yield bad
    documents = _Documents(mapping, patient_column, people, labels, tally)
    for row in _read(folder, mapping.resource, tally):
        made = row if isinstance(row, BadRow) else documents.record(row)
        if made is not None:
            yield made


def _read(folder: Path, resource: str, tally: Tally) -> Rows:
    for row in resources(folder, resource):
        tally.resources[resource] += 1
        yield row


def _problem(people: People, row: Row) -> BadRow | None:
    try:
        people.add(row)
    except BadRow as bad:
        return bad
    return None


class _Labels:
    """One column's labels, by whom they belong to."""

    def __init__(self, column: ConditionsColumn) -> None:
        self._column = column
        self._longest = max(map(len, column.prefixes))
        self._found: dict[tuple[str, str], tuple[str, ...]] = {}

    def add(self, patient: str, condition: Mapping[str, Any]) -> None:
        """One more Condition of a patient."""
        key = self._key(patient, reference_in(condition.get("encounter")))
        for code in codes(condition, "code", self._column.system):
            label = self._label(code)
            if label is not None and label not in (held := self._found.get(key, ())):
                self._found[key] = (*held, label)

    def of(self, patient: str, encounter: str) -> str:
        """The label of a document. Raises _LeftOut where there is none, or none alone."""
        if self._column.of == "encounter" and not encounter:
            raise _LeftOut("no encounter is named, whose conditions would be its label")
        found = self._found.get(self._key(patient, encounter), ())
        if not found:
            raise _LeftOut(f"no condition of the {self._column.of} has a code with a label")
        if len(found) > 1 and self._column.several == "leave out":
            raise _LeftOut(f"conditions of the {self._column.of} have several labels")
        return found[0]

    def _key(self, patient: str, encounter: str) -> tuple[str, str]:
        return patient, encounter if self._column.of == "encounter" else ""

    def _label(self, code: str) -> str | None:
        prefixes = self._column.prefixes
        starts = (code[:length] for length in range(min(len(code), self._longest), 0, -1))
        return next((prefixes[start] for start in starts if start in prefixes), None)


def _add_condition(labels: Mapping[str, _Labels], people: People, row: Row) -> BadRow | None:
    try:
        patient = people.patient_of(row)
        if _NOT_FOUND_TRUE.isdisjoint(codes(row.values, "verificationStatus")):
            for each in labels.values():
                each.add(patient, row.values)
    except BadRow as bad:
        return bad
    except Unusable as problem:
        return BadRow(row.place, str(problem), _MEND)
    return None


class _Documents:
    """Makes records of documents."""

    def __init__(
        self,
        mapping: FhirMapping,
        patient_column: str,
        people: People,
        labels: Mapping[str, _Labels],
        tally: Tally,
    ) -> None:
        self._mapping, self._patient_column = mapping, patient_column
        self._people, self._labels, self._tally = people, labels, tally
        self._seen: set[str] = set()

    def record(self, row: Row) -> Row | BadRow | None:
        """The record that a document becomes; None where it is left out."""
        try:
            return Row(row.place, self._values(row))
        except BadRow as bad:
            return bad
        except Unusable as problem:
            return BadRow(row.place, str(problem), _MEND)
        except _LeftOut as reason:
            self._tally.left_out[str(reason)] += 1
            return None

    def _values(self, row: Row) -> dict[str, str]:
        document, mapping = row.values, self._mapping
        patient = self._people.patient_of(row)
        if (name := str(document.get("id", ""))) in self._seen:
            raise BadRow(row.place, "has the id of an earlier one", "Export the newest version of each resource alone")
        if name:
            self._seen.add(name)
        if document.get("status") in _WITHDRAWN:
            raise _LeftOut("it was withdrawn or replaced (status)")
        kinds = codes(document, "code" if mapping.resource == "DiagnosticReport" else "type")
        if mapping.types and not set(mapping.types) & set(kinds):
            raise _LeftOut("its type is none of fhir.types")
        values = {self._patient_column: patient}
        for name, column in mapping.columns.items():
            if isinstance(column, ConditionsColumn):
                values[name] = self._labels[name].of(patient, _encounter(document))
            else:
                values[name] = self._text(document, column)
                if not values[name]:
                    raise _LeftOut(f'there is no text for the column "{name}"')
        return values

    def _text(self, document: Mapping[str, Any], column: Column) -> str:
        if isinstance(column, SectionsColumn):
            return section_text(document, column.sections)
        if column.kind == "conclusion":
            conclusion = document.get("conclusion", "")
            if not isinstance(conclusion, str):
                raise Unusable("has something else than text for its conclusion")
            return conclusion.strip()
        texts = []
        for attachment in _attachments(document):
            text, why_not = decoded_attachment(attachment)
            if why_not:
                self._tally.not_read[why_not] += 1
            elif text:
                texts.append(text)
        return "\n\n".join(texts)


def _attachments(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    if document.get("resourceType") == "DiagnosticReport":
        return objects(document.get("presentedForm"), "presented forms")
    content = objects(document.get("content"), "content")
    return objects([each.get("attachment") for each in content if "attachment" in each], "attachments")


def _encounter(document: Mapping[str, Any]) -> str:
    context = document.get("context")
    if document.get("resourceType") != "DocumentReference":
        return reference_in(document.get("encounter"))
    found = objects(context.get("encounter") if isinstance(context, dict) else None, "encounters")
    return reference_in(found[0]) if len(found) == 1 else ""
