"""A task's file: what is to be learnt, as a study says it, and where it stands in a FHIR export.

[task]                                  # as in study.toml
labels = ["circulatory", "respiratory"]

[fhir]
resource = "DocumentReference"
[fhir.columns.text]
kind = "attachments"
[fhir.columns.label]
kind = "conditions"
prefixes = { I = "circulatory", J = "respiratory" }
"""

from __future__ import annotations

from pathlib import Path

from pydantic import model_validator

from secfed.errors import UserError
from secfed.files.toml import TOML_BYTES_MAX
from secfed.models.data.fhir.mapping import ConditionsColumn, FhirMapping
from secfed.models.data.records import needed_of
from secfed.study.problems import read_table
from secfed.study.sections import Section
from secfed.study.tasks import ClassifyTask, Task


class TaskFile(Section):
    """The whole file."""

    task: Task
    fhir: FhirMapping | None = None

    @model_validator(mode="after")
    def _gives_what_is_needed(self) -> TaskFile:
        if self.fhir is None:
            return self
        patient, *needed = needed_of(self.task)
        given = self.fhir.columns
        if patient in given:
            raise ValueError(f"fhir.columns.{patient} is filled with the patient's id: leave it out")
        if missing := [name for name in needed if name not in given]:
            raise ValueError(f"fhir.columns lacks what the task needs: {', '.join(missing)}")
        for name, column in given.items():
            unlisted = isinstance(column, ConditionsColumn) and set(column.prefixes.values()) - set(self.task.classes)
            if isinstance(self.task, ClassifyTask) and name == self.task.label_column and unlisted:
                raise ValueError(f"fhir.columns.{name} gives labels that task.labels does not list")
        return self


def read_task_file(path: Path) -> TaskFile:
    """Read a task's file. Raises UserError, with everything that is wrong."""
    try:
        with path.open("rb") as file:
            data = file.read(TOML_BYTES_MAX + 1)
    except OSError as error:
        raise UserError(
            f"the task's file {path} cannot be read ({error.strerror})",
            "Write one with the [task] of the study, and [fhir] for a FHIR export: see docs/data.md",
        ) from error
    return read_table(TaskFile, path, data)
