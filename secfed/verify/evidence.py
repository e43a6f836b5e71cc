"""What every part of the verifier needs: an error that says what is broken, and bounded reads of files and claims.

The author of a folder may be hostile. So the verifier bounds a file's size before it reads it, and checks a value's
type before it uses it.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, TypeVar, cast

from secfed.errors import printable

BYTES_MAX = 1 << 31
"""No file of a run is larger. Files with a known size have tighter bounds."""
_SHOWN_MAX = 60


class Broken(Exception):
    """The first thing that does not hold.

    Attributes:
        place: the file at fault, relative to the run's folder.
        reason: what is wrong with it.
    """

    def __init__(self, place: str, reason: str) -> None:
        # Names from a stranger's folder are shown on a terminal.
        self.place = printable(place)
        self.reason = printable(reason)
        super().__init__(f"{self.place}: {self.reason}")


def read_file(folder: Path, place: str, most: int = BYTES_MAX) -> bytes:
    """All bytes of a file of the run. Raises Broken if it is missing, is not a plain file, or is larger than `most`."""
    path = folder / place
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for its other end forever
            raise Broken(place, "not a plain file")
        with path.open("rb") as file:
            # `read(n)` allocates n bytes, so ask only for those that are there.
            size = os.fstat(file.fileno()).st_size
            data = file.read(min(size, most) + 1)
    except OSError as error:
        raise Broken(place, f"cannot be read ({error.strerror})") from error
    if len(data) > most:
        raise Broken(place, f"larger than the {most} bytes that it may have")
    return data


def read_json(folder: Path, place: str) -> dict[str, Any]:
    """A JSON file that holds a table."""
    try:
        value = json.loads(read_file(folder, place))
    except (ValueError, RecursionError) as error:
        raise Broken(place, "not JSON") from error
    if not isinstance(value, dict):
        raise Broken(place, "not a table")
    return value


def file_names(folder: Path, place: str) -> list[str]:
    """Names in a folder of the run, sorted; none if the folder does not exist."""
    path = folder / place
    return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []


Kind = TypeVar("Kind")


def claim(place: str, table: Any, name: str, kind: type[Kind]) -> Kind:
    """One value that a file claims. Raises Broken if it is missing, or is not of exactly this type."""
    if not isinstance(table, dict) or name not in table or type(table[name]) is not kind:
        raise Broken(place, f"{name} is missing, or has the wrong type")
    return cast(Kind, table[name])


def agree(place: str, table: Any, name: str, found: Any, tolerance: float = 0.0) -> None:
    """Check that a file claims exactly what the evidence gives. Numbers may differ by the tolerance, a fraction."""
    claimed = claim(place, table, name, type(found))
    difference = first_difference(claimed, found, tolerance, name)
    if difference is not None:
        where, said, given = difference
        raise Broken(place, f"{where} is {shortened(said)}, but the evidence gives {shortened(given)}")


def first_difference(claimed: Any, found: Any, tolerance: float, where: str) -> tuple[str, Any, Any] | None:
    """Where two JSON values differ first: in type, length or text, or in a number by more than a fraction of it."""
    if type(claimed) is not type(found):
        return where, claimed, found
    if isinstance(found, dict):
        if list(claimed) != list(found):
            return where, list(claimed), list(found)
        pairs = ((f"{where}.{name}", claimed[name], found[name]) for name in found)
    elif isinstance(found, list):
        if len(claimed) != len(found):
            return where, claimed, found
        pairs = ((f"{where}.{at}", *pair) for at, pair in enumerate(zip(claimed, found, strict=True)))
    elif isinstance(found, float):
        return None if math.isclose(claimed, found, rel_tol=tolerance, abs_tol=0.0) else (where, claimed, found)
    else:
        return None if claimed == found else (where, claimed, found)
    differences = (first_difference(said, given, tolerance, place) for place, said, given in pairs)
    return next((each for each in differences if each is not None), None)


def shortened(value: Any) -> str:
    """A value as JSON, cut if it is long."""
    text = json.dumps(value)
    return text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "..."
