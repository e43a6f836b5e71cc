"""How inputs are changed: bytes as libFuzzer does it, and structure where bytes alone would not get far.

A structured mutator decodes an input, edits the value, and encodes it again in the one form that the parser accepts,
so that the fuzzer reaches what lies behind that form. Every one of them falls back on bytes: malformed input is input.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, TypeAlias

import cbor2

from protocols import cbor
from protocols.errors import MalformedMessage
from tests.fuzz.target import Mutator

Finish: TypeAlias = Callable[[Any], Any]
"""What a dishonest author does to an edited value before it leaves: such as signing it."""

_EDITS_MOST = 3
_BYTES_SHARE = 0.3
"""How often a structured mutator leaves the structure alone and changes bytes."""
_REPEATED_SHARE = 0.04
_NESTED: Any = [[[[[[[[0]]]]]]]]
_ODD_VALUES: tuple[Any, ...] = (
    *(0, 1, -1, 2, 23, 24, 255, 256, 65535, 1 << 32, (1 << 53) - 1, 1 << 53, (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
    *(-(1 << 63), -(1 << 64), b"", bytes(1), bytes(32), bytes(33), bytes(64), "", "type", "\x1b[2J\n", "\u0661"),
    *(None, True, False, [], {}, [0], {"": 0}, _NESTED),
)
_ODD_IN_TEXT: tuple[Any, ...] = (
    *(0.0, -0.5, 1e308, float("nan"), float("inf"), 10**400, "0" * 64, "NaN", "1e9", "-1", "1_0", "0x1", "\ud800"),
    *(value for value in _ODD_VALUES if not isinstance(value, bytes)),
)
_ODD_LINES = (
    *(b"x = 1", b'"\\u001b[2J\\n" = 1', b"[x]", b"[[x]]", b"x = nan", b"x = -inf", b"x = 1979-05-27", b"x = 07:32:00"),
    *(b"x = 0x_1", b'x = """', b"x = [", b"x = {", b"a.b.c = 1", b"x = " + b"1" * 5000, b"\xff", b"x = true"),
)


def mutate_bytes(data: bytes, most_bytes: int, random: Random) -> bytes:
    """libFuzzer's own mutations, and now and then a slice many times over: parsers that recurse or copy show there."""
    import atheris

    if data and random.random() < _REPEATED_SHARE:
        start = random.randrange(len(data))
        part = data[start : start + random.choice((1, 1, 2, 2, 3, 5, 17))]
        room = max(0, most_bytes - len(data)) // len(part)
        count = min(room, random.choice((8, 300, 970, 1000, 1 << 20)))
        return data[:start] + part * count + data[start:]
    return bytes(atheris.Mutate(data, most_bytes))


def cbor_mutator(finish: Finish = lambda value: value) -> Mutator:
    """Edits the decoded value, and encodes it canonically."""

    def mutate(data: bytes, most_bytes: int, random: Random) -> bytes:
        if random.random() >= _BYTES_SHARE:
            try:
                value = finish(edited(cbor.read(data, None), random, _ODD_VALUES))
                changed = cbor2.dumps(value, canonical=True)
            except (MalformedMessage, ValueError, cbor2.CBOREncodeError):
                changed = b""
            if 0 < len(changed) <= most_bytes:
                return changed
        return mutate_bytes(data, most_bytes, random)

    return mutate


def json_mutator(write: Callable[[Any], str]) -> Mutator:
    """Edits the decoded value, and writes it as its author would."""

    def mutate(data: bytes, most_bytes: int, random: Random) -> bytes:
        if random.random() >= _BYTES_SHARE:
            try:
                changed = write(edited(json.loads(data), random, _ODD_IN_TEXT)).encode()
            except (ValueError, RecursionError):
                changed = b""
            if 0 < len(changed) <= most_bytes:
                return changed
        return mutate_bytes(data, most_bytes, random)

    return mutate


def json_lines_mutator(finish: Callable[[list[Any]], bytes]) -> Mutator:
    """Edits one of the decoded lines; `finish` writes all of them."""

    def mutate(data: bytes, most_bytes: int, random: Random) -> bytes:
        if random.random() >= _BYTES_SHARE:
            try:
                lines = edited([json.loads(line) for line in data.splitlines()], random, _ODD_IN_TEXT)
                changed = finish(lines)
            except (ValueError, RecursionError, TypeError, KeyError):
                changed = b""
            if 0 < len(changed) <= most_bytes:
                return changed
        return mutate_bytes(data, most_bytes, random)

    return mutate


def safetensors_mutator(data: bytes, most_bytes: int, random: Random) -> bytes:
    """Edits the header: eight bytes of length, then JSON, then the numbers."""
    if random.random() >= _BYTES_SHARE:
        length = int.from_bytes(data[:8], "little")
        try:
            header = json.dumps(edited(json.loads(data[8 : 8 + length]), random, _ODD_IN_TEXT)).encode()
        except (ValueError, RecursionError):
            header = b""
        changed = len(header).to_bytes(8, "little") + header + data[8 + length :]
        if header and len(changed) <= most_bytes:
            return changed
    return mutate_bytes(data, most_bytes, random)


def toml_mutator(data: bytes, most_bytes: int, random: Random) -> bytes:
    """Edits whole lines: gone, twice, elsewhere, or another one's value."""
    lines = data.split(b"\n")
    if random.random() < _BYTES_SHARE:
        return mutate_bytes(data, most_bytes, random)
    for _ in range(random.randint(1, _EDITS_MOST)):
        at, other = random.randrange(len(lines)), random.randrange(len(lines))
        match random.randrange(5):
            case 0 if len(lines) > 1:
                del lines[at]
            case 1:
                lines.insert(other, lines[at])
            case 2:
                lines[at], lines[other] = lines[other], lines[at]
            case 3:
                lines.insert(at, random.choice(_ODD_LINES))
            case _:
                value = random.choice((*_ODD_LINES, lines[other])).partition(b"=")[2]
                lines[at] = lines[at].partition(b"=")[0] + b"=" + value
    changed = b"\n".join(lines)
    return changed if len(changed) <= most_bytes else mutate_bytes(data, most_bytes, random)


def edited(value: Any, random: Random, odd_values: Sequence[Any]) -> Any:
    """The value with one to three places changed. What goes in is changed, too."""
    for _ in range(random.randint(1, _EDITS_MOST)):
        value = _edited_somewhere(value, random, odd_values)
    return value


def _edited_somewhere(value: Any, random: Random, odd_values: Sequence[Any]) -> Any:
    if isinstance(value, dict | list) and value and random.random() < 0.75:
        place = random.choice(list(value)) if isinstance(value, dict) else random.randrange(len(value))
        value[place] = _edited_somewhere(value[place], random, odd_values)
        return value
    if random.random() < 0.25:
        return _unshared(random.choice(odd_values))
    match value:
        case dict():
            return _edited_map(value, random, odd_values)
        case list():
            return _edited_list(value, random, odd_values)
        case bytes():
            return mutate_bytes(value, 2 * len(value) + 8, random)
        case str():
            return mutate_bytes(value.encode(errors="replace"), 2 * len(value) + 8, random).decode(errors="replace")
        case bool() | None:
            return not value
        case int():
            return value + random.choice((-256, -2, -1, 1, 2, 256))
    return _unshared(random.choice(odd_values))


def _edited_map(value: dict[str, Any], random: Random, odd_values: Sequence[Any]) -> dict[str, Any]:
    names = list(value)
    new = random.choice(("x", "type", "\x1b[2J\n", "", *(name + "x" for name in names)))
    match random.randrange(4):
        case 0 if names:
            del value[random.choice(names)]
        case 1 if names:
            value[new] = value.pop(random.choice(names))
        case 2 if names:
            value[random.choice(names)] = value[random.choice(names)]
        case _:
            value[new] = random.choice(odd_values)
    return {name: _unshared(part) for name, part in value.items()}


def _edited_list(value: list[Any], random: Random, odd_values: Sequence[Any]) -> list[Any]:
    match random.randrange(4):
        case 0 if value:
            del value[random.randrange(len(value))]
        case 1 if value:
            value.insert(random.randrange(len(value)), random.choice(value))
        case 2 if value:
            at, other = random.randrange(len(value)), random.randrange(len(value))
            value[at], value[other] = value[other], value[at]
        case _:
            value.insert(random.randint(0, len(value)), random.choice(odd_values))
    return [_unshared(part) for part in value]


def _unshared(value: Any) -> Any:
    """A copy without parts that occur twice: an edit of one would be an edit of both."""
    if isinstance(value, dict):
        return {name: _unshared(part) for name, part in value.items()}
    return [_unshared(part) for part in value] if isinstance(value, list) else value


def maps_in(value: Any) -> Iterator[dict[str, Any]]:
    """Every map in a value, the inner ones first."""
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from maps_in(part)
    if isinstance(value, dict):
        yield value
