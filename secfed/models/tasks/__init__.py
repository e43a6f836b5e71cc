"""Kinds of task, as far as they are computed: one file for each, and here the list of them.

What is signed and read of a kind is in `secfed.study.tasks`, which needs none of this. A new kind becomes one that
programs can train by its line in `_KINDS`.
"""

from __future__ import annotations

from typing import Any

from secfed.models.tasks.base import Kind, Reading
from secfed.models.tasks.classify import Classify
from secfed.models.tasks.generate import Generate
from secfed.models.tasks.tag import Tag
from secfed.study.manifest import Study
from secfed.study.tasks import ClassifyTask, GenerateTask, TagTask, TaskTable

__all__ = ["Kind", "Reading", "kind_for", "kind_of"]

_KINDS: dict[type[TaskTable], type[Kind[Any, Any]]] = {ClassifyTask: Classify, TagTask: Tag, GenerateTask: Generate}


def kind_for(task: TaskTable, max_length: int) -> Kind[Any, Any]:
    """How records are learnt from, for a task that may belong to no study yet."""
    return _KINDS[type(task)](task, max_length)


def kind_of(study: Study) -> Kind[Any, Any]:
    """How a study's records are learnt from."""
    return kind_for(study.task, study.model.max_length)
