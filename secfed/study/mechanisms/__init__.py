"""The ways in which a study is kept private: one class each, and here the list of them.

A new mode is one file beside these: its `[privacy]` table, unless it takes one that is there, and its `Mechanism`. It
becomes one that studies can ask for by its line in `MECHANISMS`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, Union

from pydantic import Discriminator, Tag

from secfed.study.mechanisms.base import Mechanism
from secfed.study.mechanisms.local_steps import LocalSteps
from secfed.study.mechanisms.node_update import NodeUpdate
from secfed.study.mechanisms.shared_step import SharedStep
from secfed.study.privacy import PrivacyTable

if TYPE_CHECKING:
    from secfed.study.manifest import Study

MECHANISMS: tuple[type[Mechanism[Any]], ...] = (LocalSteps, SharedStep, NodeUpdate)
"""All of them. Each legal table of a study is taken by exactly one."""


def _modes(kinds: Iterable[type[Mechanism[Any]]]) -> dict[str, type[PrivacyTable]]:
    return {each.table.model_fields["mode"].default: each.table for each in kinds}


MODES = _modes(MECHANISMS)
"""The tables by the mode that they are for, as a study names it."""


def mechanism_of(study: Study) -> Mechanism[Any]:
    """How this study is kept private."""
    (kind,) = (each for each in MECHANISMS if each.takes(study.privacy))
    return kind(study, study.privacy)


def _mode_of(value: Any) -> str | None:
    """The mode that a table names; `distributed` if it names none."""
    if isinstance(value, dict):
        name = value.get("mode", "distributed")
        return name if isinstance(name, str) else None
    return getattr(value, "mode", None)


def tables(kinds: Iterable[type[Mechanism[Any]]]) -> Any:
    """The type of a `[privacy]` table that one of these mechanisms takes, chosen by `mode`."""
    modes = _modes(kinds)
    return Annotated[
        Union[tuple(Annotated[table, Tag(name)] for name, table in modes.items())],  # noqa: UP007
        Discriminator(_mode_of, custom_error_type="mode", custom_error_message=f"mode is one of {', '.join(modes)}"),
    ]


if TYPE_CHECKING:
    Privacy: TypeAlias = PrivacyTable
else:
    Privacy = tables(MECHANISMS)
"""Any of the tables. To a type checker it has what they have in common and no more: what is a mode's own is its
mechanism's."""
