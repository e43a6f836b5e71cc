"""Lists everything that is wrong with a person's TOML file at once, each problem with its line."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from secfed.errors import Problems
from secfed.files.reading import read_at_most
from secfed.files.toml import TOML_BYTES_MAX, as_json, parse_toml
from secfed.study.algorithms import STRATEGIES
from secfed.study.mechanisms import MODES
from secfed.study.sections import WITHOUT_EFFECT
from secfed.study.tasks import KINDS

_CHOICES: dict[str, Container[str]] = {"task": KINDS, "algorithm": STRATEGIES, "privacy": MODES}
"""Tables with several kinds, and the names of the kinds."""
_TABLE = re.compile(r"\s*(\[\[?)\s*([A-Za-z0-9_.-]+)\s*\]\]?")
_KEY = re.compile(r"\s*([A-Za-z0-9_-]+(?:\s*\.\s*[A-Za-z0-9_-]+)*)\s*=")
_PASSES_MAX = 3

Place = tuple[str | int, ...]
AnyTable = TypeVar("AnyTable", bound=BaseModel)


def place_and_reason(problem: ErrorDetails) -> tuple[Place, str]:
    """The place of one of pydantic's findings, as in the file, and its reason."""
    place = tuple(problem["loc"])
    if len(place) > 1 and place[1] in _CHOICES.get(str(place[0]), ()):
        place = (place[0], *place[2:])  # pydantic adds what was chosen; the file has no such table
    if len(place) > 3 and place[:2] == ("allow", "tasks") and place[3] in KINDS:
        place = (*place[:3], *place[4:])
    unknown = problem["type"] == "extra_forbidden"
    return place, "this key is unknown" if unknown else problem["msg"].removeprefix("Value error, ")


def read_table(kind: type[AnyTable], path: Path, data: bytes) -> AnyTable:
    """Read and check a person's TOML file.

    Args:
        kind: the expected kind of table.
        path: the file, for errors.
        data: its bytes; one more than the limit if the file is too large.

    Raises:
        UserError: it is not TOML, or not a table of that kind. Lists every problem with its line.
    """
    values = parse_toml(data, path)

    def read(table: Mapping[str, Any]) -> AnyTable:
        return kind.model_validate_json(as_json(table, path))

    try:
        return read(values)
    except ValidationError as error:
        raise all_problems(path, data, values, error, read) from error


def read_table_file(kind: type[AnyTable], path: Path, next_step: str) -> AnyTable:
    """As `read_table`, from the file.

    Args:
        kind: what it is to be.
        path: the file.
        next_step: what helps if it cannot be read.
    """
    return read_table(kind, path, read_at_most(path, TOML_BYTES_MAX, "", next_step))


def all_problems(
    path: Path,
    data: bytes,
    values: Mapping[str, Any],
    error: ValidationError,
    again: Callable[[Mapping[str, Any]], Any],
) -> Problems:
    """Everything that is wrong with a file, as one error.

    Pydantic stops checking a table that has unknown keys. So these keys are removed, only for the next check, until no
    new problem appears.

    Args:
        path: the file.
        data: its bytes.
        values: its table.
        error: the first findings.
        again: checks a table again, and raises ValidationError.
    """
    found: dict[tuple[Place, str], None] = {}
    for _ in range(_PASSES_MAX):
        details = error.errors()
        found |= dict.fromkeys(place_and_reason(problem) for problem in details)
        values, changed = _without(values, details)
        if not changed:
            break
        try:
            again(values)
            break
        except ValidationError as more:
            error = more
    lines = lines_of(data)
    written = ((_as_written(place, values), reason) for place, reason in found)
    told = sorted(
        ((_line(place, lines), place, reason) for place, reason in written), key=lambda each: each[0] or len(data)
    )
    return Problems(str(path), [_in_words(*each) for each in told], "Mend it in that file; nothing was started")


def lines_of(data: bytes) -> dict[Place, int]:
    """The line (from 1) of every table and key, by place: `("roster", 0, "name")` for a key in a list of tables.

    Good enough for people: a line inside a longer text that looks like a key counts as one.
    """
    found: dict[Place, int] = {}
    counts: dict[str, int] = {}
    table: Place = ()
    for number, line in enumerate(data.decode(errors="replace").splitlines(), start=1):
        if head := _TABLE.match(line):
            name = head[2]
            table = tuple(name.split("."))
            if head[1] == "[[":
                table = (*table, counts.setdefault(name, 0))
                counts[name] += 1
            found.setdefault(table, number)
        elif key := _KEY.match(line):
            parts = tuple(part.strip() for part in key[1].split("."))
            for end in range(1, len(parts) + 1):
                found.setdefault((*table, *parts[:end]), number)
    return found


def _as_written(place: Place, values: Mapping[str, Any]) -> Place:
    """The place without an index that the file does not have: a single `[budget]` is read as a list of one."""
    if len(place) > 1 and place[1] == 0 and isinstance(values.get(str(place[0])), dict):
        return (place[0], *place[2:])
    return place


def _line(place: Place, lines: Mapping[Place, int]) -> int:
    """The line of the place, or of the nearest table around it in the file; 0 for the whole file."""
    return next((lines[place[:end]] for end in range(len(place), 0, -1) if place[:end] in lines), 0)


def _in_words(line: int, place: Place, reason: str) -> str:
    where = ".".join(map(str, place))
    return f"{f'line {line}, ' if line else ''}{where + ': ' if where else ''}{reason}"


def _without(values: Mapping[str, Any], details: Sequence[ErrorDetails]) -> tuple[dict[str, Any], bool]:
    """The same table without unknown keys, and whether there were any."""
    kept: dict[str, Any] = {name: dict(value) if isinstance(value, dict) else value for name, value in values.items()}
    changed = False
    for problem in details:
        place, _ = place_and_reason(problem)
        names: Sequence[Any] = ()
        if problem["type"] == "extra_forbidden":
            place, names = place[:-1], place[-1:]
        elif problem["type"] == WITHOUT_EFFECT:
            names = problem["ctx"]["keys"]
        table = kept if not place else kept.get(str(place[0])) if len(place) == 1 else None
        for name in names:
            if isinstance(table, dict) and name in table:
                del table[name]
                changed = True
    return kept, changed
