"""What a study can have learnt: one file for each kind of `[task]` table, and here the list of them.

A new kind is one file beside these, for what is signed and read, and one of the same name in `secfed.models.tasks`, for
what is computed. It becomes one that studies can ask for by its line in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, Union

from pydantic import Discriminator, Tag

from secfed.study.tasks.base import Figure, TaskTable
from secfed.study.tasks.classify import ClassifyTask
from secfed.study.tasks.generate import GenerateTask
from secfed.study.tasks.tag import TagTask

__all__ = [
    "DEFAULT_KIND",
    "KINDS",
    "ClassifyTask",
    "Figure",
    "GenerateTask",
    "TagTask",
    "Task",
    "TaskTable",
    "figures_in",
]

DEFAULT_KIND = ClassifyTask.kind_name
KINDS: dict[str, type[TaskTable]] = {table.kind_name: table for table in (ClassifyTask, TagTask, GenerateTask)}
"""Every kind by its name in a study."""


def figures_in(values: Mapping[str, Any]) -> list[tuple[Figure, float, float]]:
    """What was measured, before and after, in a summary or a part of a report. Raises KeyError where it is none."""
    for table in KINDS.values():
        keys = [figure.keys for figure in table.figures]
        if {key for pair in keys for key in pair} <= set(values):
            return [
                (figure, values[before], values[after])
                for figure, (before, after) in zip(table.figures, keys, strict=True)
            ]
    raise KeyError("no task's figures")


def _kind_of(value: Any) -> str | None:
    """The kind that a table names; `classify` if it names none."""
    if isinstance(value, dict):
        name = value.get("kind", DEFAULT_KIND)
        return name if isinstance(name, str) else None
    return getattr(value, "kind_name", None)


if TYPE_CHECKING:
    Task: TypeAlias = TaskTable
else:
    Task = Annotated[
        Union[tuple(Annotated[table, Tag(name)] for name, table in KINDS.items())],  # noqa: UP007
        Discriminator(_kind_of, custom_error_type="kind", custom_error_message=f"kind is one of {', '.join(KINDS)}"),
    ]
"""Any of the tables, chosen by `kind`. To a type checker it has what they have in common and no more."""
