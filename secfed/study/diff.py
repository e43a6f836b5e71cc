"""What differs between two studies, in words: values by their place in the file, the roster by name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crypto.identity import PublicIdentity
from secfed.errors import printable
from secfed.study.manifest import RosterEntry, Study

_ABSENT = object()
_ENTRIES_SHOWN = 3


def differences(before: Study, after: Study) -> tuple[str, ...]:
    """One line for each value that differs. Comments and layout do not count.

    Args:
        before, after: both studies.
    """
    values = [study.model_dump(mode="json", exclude={"roster"}) for study in (before, after)]
    lines = [*_in_tables("", values[0], values[1]), *_in_rosters(before.roster, after.roster)]
    return tuple(printable(line) for line in lines)


def _in_tables(place: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys([*before, *after]):
        path = f"{place}.{name}" if place else name
        one, other = before.get(name, _ABSENT), after.get(name, _ABSENT)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _in_tables(path, one, other)
        elif isinstance(one, list) and isinstance(other, list) and one != other:
            yield f"{path}: {_in_lists(one, other)}"
        elif one != other:
            yield f"{path}: {_told(one)} before, {_told(other)} now"


def _in_lists(before: Sequence[Any], after: Sequence[Any]) -> str:
    added = [entry for entry in after if entry not in before]
    removed = [entry for entry in before if entry not in after]
    if not added and not removed:
        return "the same entries in another order or number"
    told = [f"{_few(added)} added" for _ in added[:1]] + [f"{_few(removed)} removed" for _ in removed[:1]]
    return ", ".join(told)


def _few(entries: Sequence[Any]) -> str:
    more = f" and {len(entries) - _ENTRIES_SHOWN} more" if len(entries) > _ENTRIES_SHOWN else ""
    return ", ".join(_told(entry) for entry in entries[:_ENTRIES_SHOWN]) + more


def _told(value: Any) -> str:
    return "absent" if value is _ABSENT or value is None else json.dumps(value, ensure_ascii=False)


def _in_rosters(before: Sequence[RosterEntry], after: Sequence[RosterEntry]) -> Iterator[str]:
    old, new = ({entry.name: entry for entry in roster} for roster in (before, after))
    for name, entry in new.items():
        if name not in old:
            yield f"roster: {name} joined, about {entry.patients}, {_fingerprint(entry)}"
    for name, entry in old.items():
        if name not in new:
            yield f"roster: {name} left, {_fingerprint(entry)}"
            continue
        now = new[name]
        if now.identity != entry.identity:
            yield f"roster: {name} has another key: {_fingerprint(now)}, before {_fingerprint(entry)}"
        if now.patients != entry.patients:
            yield f"roster: {name} counts {now.patients}, before {entry.patients}"
    both = [name for name in old if name in new]
    if both != [name for name in new if name in old]:
        yield "roster: the same names in another order"


def _fingerprint(entry: RosterEntry) -> str:
    return f"fingerprint {PublicIdentity(bytes.fromhex(entry.identity)).fingerprint()}"
