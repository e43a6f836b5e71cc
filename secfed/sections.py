"""What the tables of a study have in common: an unknown key is refused, and so is one without effect.

Whoever signs a study should be able to take every line of it at its word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of which there is one kind. Values are of the very type that is asked for, and never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def refuse_without_effect(
    values: Any, chosen: type[BaseModel], kinds: Mapping[str, type[BaseModel]], where: str
) -> None:
    """Refuse a key that another kind of this table has, and the chosen one has not.

    Args:
        values: the table as it was read.
        chosen: its kind.
        kinds: all kinds of this table.
        where: says in which kind the key has no effect.

    Raises:
        ValueError: there is such a key.
    """
    known = {name for kind in kinds.values() for name in kind.model_fields}
    for name in values if isinstance(values, dict) else ():
        if name in known and name not in chosen.model_fields:
            raise ValueError(f"{name} has no effect {where}; leave it out")
