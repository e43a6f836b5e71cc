"""The modes of privacy: one class each, and the list of them.

A new mode is one more file here, with its `Mechanism` and its `[privacy]` table (or an existing table). A line in
`MECHANISMS` makes it available to studies.
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
"""All mechanisms. Exactly one of them takes each valid `[privacy]` table."""


def _modes(kinds: Iterable[type[Mechanism[Any]]]) -> dict[str, type[PrivacyTable]]:
    return {each.table.model_fields["mode"].default: each.table for each in kinds}


MODES = _modes(MECHANISMS)
"""The tables by the mode's name in a study."""


def mechanism_of(study: Study) -> Mechanism[Any]:
    """The mechanism of this study."""
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
        Discriminator(
            _mode_of, custom_error_type="mode", custom_error_message=f"mode must be one of {', '.join(modes)}"
        ),
    ]


if TYPE_CHECKING:
    Privacy: TypeAlias = PrivacyTable
else:
    Privacy = tables(MECHANISMS)
"""Any of the tables. Type checkers see only their common keys; a mode's own keys belong to its mechanism."""
