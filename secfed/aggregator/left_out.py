"""Sites that an aggregator's operator leaves out of a study's next rounds: a file that a running study looks at.

Where every sum with a certain site in it turns out wrong, the round has to go on without it (docs/wrong-sums.md). A
node needs to know nothing of it: its round simply has a smaller U1, and every rule about cohorts holds as before. So as
many sites can be left out as may drop out of a full cohort, and no more. They get receipts and sums as all do.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from protocols.parameters import ROSTER_MAX
from secfed.errors import UserError
from secfed.files.whole import READABLE, json_text, write_whole
from secfed.study.manifest import Name, Study, first_problem
from secfed.study.sections import Section

_BYTES_MAX = 1 << 17


class _File(Section):
    """The whole file."""

    format: Literal[1] = 1
    left_out: tuple[Name, ...] = Field(max_length=ROSTER_MAX)


def read_left_out(path: Path, study: Study) -> frozenset[int]:
    """Who is left out, by roster index; nobody where there is no such file.

    Raises:
        UserError: the file cannot be read, names others than the roster, or too many.
    """
    try:
        with path.open("rb") as file:
            return _checked(_File.model_validate_json(file.read(_BYTES_MAX)).left_out, study)
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValidationError) as error:
        problem = first_problem(error) if isinstance(error, ValidationError) else error.strerror
        raise UserError(
            f"{path} does not say who is left out ({problem})", "Say it anew with `secfed federation leave-out`"
        ) from error


def write_left_out(path: Path, study: Study, names: Iterable[str]) -> frozenset[int]:
    """Leave out exactly these sites from the next round on. Gives their roster indices.

    Raises:
        UserError: one is not on the roster, or they are too many; nothing is changed.
    """
    left_out = _checked(names, study)
    told = _File(left_out=tuple(study.roster[node].name for node in sorted(left_out)))
    try:
        write_whole(path, json_text(told.model_dump()).encode(), READABLE)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})", "Check its folder and its disk") from error
    return left_out


def _checked(names: Iterable[str], study: Study) -> frozenset[int]:
    """Their roster indices, if a round can go on without all of them."""
    index = {entry.name: node for node, entry in enumerate(study.roster)}
    wanted = sorted(set(names))
    strangers = [name for name in wanted if name not in index]
    if strangers:
        raise UserError(
            f"{', '.join(strangers)}: not on the roster of {study.name}", f"Name sites of these: {', '.join(index)}"
        )
    rules, size = study.cohort_rules(), len(study.roster)
    most = rules.really_tolerated(size)
    if len(wanted) > most:
        raise UserError(
            f"{', '.join(wanted)} are {len(wanted)} of {size} sites, and at most {most} can be left out: "
            f"{rules.smallest_legal(size)} are needed (quorum {rules.quorum(size)}, smallest cohort "
            f"{study.cohort.minimum})",
            "Leave out fewer at a time, one group after another",
        )
    return frozenset(index[name] for name in wanted)
