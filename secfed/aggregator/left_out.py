"""The sites that the aggregator's operator leaves out of a study's next rounds: a file that a running study reads.

If every sum with a certain site in it is wrong, rounds must go on without that site (docs/wrong-sums.md). Nodes need
not know: such a round has a smaller U1, and every rule about cohorts holds as before. So at most as many sites can be
left out as may drop out of a full cohort. They still get receipts and sums.
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
    """Who is left out, by roster index; nobody if there is no such file.

    Raises:
        UserError: the file cannot be read, names a site that is not on the roster, or names too many.
    """
    try:
        with path.open("rb") as file:
            return _checked(_File.model_validate_json(file.read(_BYTES_MAX)).left_out, study)
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValidationError) as error:
        problem = first_problem(error) if isinstance(error, ValidationError) else error.strerror
        raise UserError(
            f"{path} does not say who is left out ({problem})", "Write it again with `secfed federation leave-out`"
        ) from error


def write_left_out(path: Path, study: Study, names: Iterable[str]) -> frozenset[int]:
    """Leave out exactly these sites from the next round on. Returns their roster indices.

    Raises:
        UserError: one is not on the roster, or there are too many; nothing is changed.
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
            f"{', '.join(strangers)}: not on the roster of {study.name}", f"Choose from these sites: {', '.join(index)}"
        )
    rules, size = study.cohort_rules(), len(study.roster)
    most = rules.really_tolerated(size)
    if len(wanted) > most:
        raise UserError(
            f"{', '.join(wanted)} are {len(wanted)} of {size} sites, but at most {most} can be left out: a round "
            f"needs {rules.smallest_legal(size)} (quorum {rules.quorum(size)}, smallest cohort "
            f"{study.cohort.minimum})",
            "Leave out fewer at a time, one group after another",
        )
    return frozenset(index[name] for name in wanted)
