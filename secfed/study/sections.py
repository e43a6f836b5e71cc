"""What the tables of a study have in common: an unknown key is refused, and so is one without effect.

Whoever signs a study should be able to take every line of it at its word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

WITHOUT_EFFECT = "without_effect"
"""The type of such a finding; its context has the `keys`."""


class Section(BaseModel):
    """A table of which there is one kind. Values are of the very type that is asked for, and never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def written(self) -> dict[str, Any]:
        """The values as a file has them, by key, tables as they are: without those that are absent."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if value is not None}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy. With other values it is checked as if it had been read: pydantic's own takes whatever it is given.

        Raises:
            ValidationError: the values are none of this table, or do not fit together.
        """
        if update is None:
            return super().model_copy(deep=deep)
        return type(self).model_validate({**self.written(), **update})


def refuse_without_effect(values: Any, chosen: type[BaseModel], kinds: Iterable[type[BaseModel]], where: str) -> None:
    """Refuse keys that another kind of this table has, and the chosen one has not: all of them at once.

    Args:
        values: the table as it was read.
        chosen: its kind.
        kinds: all kinds of this table.
        where: says in which kind the key has no effect.

    Raises:
        PydanticCustomError: there is such a key.
    """
    known = {name for kind in kinds for name in kind.model_fields}
    keys = [name for name in (values if isinstance(values, dict) else ()) if name in known - set(chosen.model_fields)]
    if keys:
        names = keys[0] if len(keys) == 1 else f"{', '.join(keys[:-1])} and {keys[-1]}"
        verb, them = ("has", "it") if len(keys) == 1 else ("have", "them")
        text = f"{names} {verb} no effect {where}; leave {them} out"
        raise PydanticCustomError(WITHOUT_EFFECT, "{text}", {"text": text, "keys": keys})
