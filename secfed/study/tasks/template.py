"""A text with gaps for a record's columns: `Note: {subjective}`. Braces that are meant are written twice.

What fills a gap is text and no template: braces in a note stay what they are, and a column cannot name another.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|([{}])")


def gaps(template: str) -> tuple[str, ...]:
    """The columns that a template names, each once, in order.

    Raises:
        ValueError: a brace stands alone, or a gap names no column.
    """
    found: dict[str, None] = {}
    for piece in _PIECE.finditer(template):
        if piece[2] is not None:
            raise ValueError(
                f"the brace at character {piece.start() + 1} stands alone: write {{column}} for what a record has, and "
                "{{ or }} for a brace that is meant"
            )
        if piece[1] is not None:
            found[piece[1]] = None
    return tuple(found)


def filled(template: str, value_of: Callable[[str], str]) -> str:
    """The template with every gap filled.

    Args:
        template: one that `gaps` takes.
        value_of: from a column's name to the record's text in it.
    """
    return _PIECE.sub(lambda piece: piece[0][0] if piece[1] is None else value_of(piece[1]), template)
