"""`[fhir]` in a task's file: which resources become records, and what stands in each of a record's columns."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from secfed.study.sections import Section

Resource: TypeAlias = Literal["Composition", "DocumentReference", "DiagnosticReport"]
_Code = Annotated[str, Field(min_length=1, max_length=200)]


class SectionsColumn(Section):
    """The text of a Composition's sections, joined."""

    kind: Literal["sections"]
    sections: tuple[_Code, ...] = Field(default=(), max_length=100)
    """Titles or codes of those that are taken, with what is inside them, in the order of the document; all if empty."""


class AttachmentsColumn(Section):
    """The text of a DocumentReference's attachments, or of a DiagnosticReport's presented form, joined."""

    kind: Literal["attachments"]


class ConclusionColumn(Section):
    """A DiagnosticReport's conclusion."""

    kind: Literal["conclusion"]


class ConditionsColumn(Section):
    """A label for the codes of Conditions."""

    kind: Literal["conditions"]
    system: str = Field(default="", max_length=500)
    """Of the codes that count, as in http://hl7.org/fhir/sid/icd-10-cm; any if empty."""
    of: Literal["encounter", "patient"] = "encounter"
    """Whose conditions: of the encounter in which the document was written, or all of the patient's."""
    several: Literal["leave out", "first"] = "leave out"
    """What becomes of a document to which several labels would belong: the first is that of the first Condition in the
    export."""
    prefixes: dict[_Code, _Code] = Field(min_length=1, max_length=10_000)
    """The label by the beginning of a code; the longest beginning that fits counts."""


Column: TypeAlias = Annotated[
    SectionsColumn | AttachmentsColumn | ConclusionColumn | ConditionsColumn, Field(discriminator="kind")
]
_OF: dict[str, tuple[Resource, ...]] = {
    "sections": ("Composition",),
    "attachments": ("DocumentReference", "DiagnosticReport"),
    "conclusion": ("DiagnosticReport",),
}
"""The resources that have such a text."""


class FhirMapping(Section):
    """The whole table."""

    resource: Resource
    """Each of them becomes one record."""
    types: tuple[_Code, ...] = Field(default=(), max_length=1000)
    """Codes of the documents that are taken, as in 18842-5 for discharge summaries; all if empty."""
    columns: dict[_Code, Column] = Field(min_length=1, max_length=100)
    """What stands in each column, beside the patient's."""

    @model_validator(mode="after")
    def _has_such_texts(self) -> FhirMapping:
        for name, column in self.columns.items():
            if self.resource not in _OF.get(column.kind, (self.resource,)):
                raise ValueError(f"a {self.resource} has no {column.kind}, which columns.{name} takes from it")
        return self
