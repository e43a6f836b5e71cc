"""Base of a study's tables. They refuse unknown keys and keys without effect.

So every line of a study means what it says to the people who sign it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

WITHOUT_EFFECT = "without_effect"
"""The error type for keys without effect; its context holds the `keys`."""


class Section(BaseModel):
    """Base of all tables: immutable, strict types, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def written(self) -> dict[str, Any]:
        """The values by key, as in a file: tables stay as they are, absent values are left out."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if value is not None}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy. Changed values are checked as if they came from a file; pydantic's own method checks nothing.

        Raises:
            ValidationError: a value is not valid in this table, or the values do not fit together.
        """
        if update is None:
            return super().model_copy(deep=deep)
        return type(self).model_validate({**self.written(), **update})


def refuse_without_effect(values: Any, chosen: type[BaseModel], kinds: Iterable[type[BaseModel]], where: str) -> None:
    """Refuse keys that belong to another kind of this table. Reports all of them at once.

    Args:
        values: the table as it was read.
        chosen: its kind.
        kinds: all kinds of this table.
        where: for the error: in which kind the key has no effect.

    Raises:
        PydanticCustomError: the table has such a key.
    """
    known = {name for kind in kinds for name in kind.model_fields}
    keys = [name for name in (values if isinstance(values, dict) else ()) if name in known - set(chosen.model_fields)]
    if keys:
        names = keys[0] if len(keys) == 1 else f"{', '.join(keys[:-1])} and {keys[-1]}"
        verb, them = ("has", "it") if len(keys) == 1 else ("have", "them")
        text = f"{names} {verb} no effect {where}; leave {them} out"
        raise PydanticCustomError(WITHOUT_EFFECT, "{text}", {"text": text, "keys": keys})
