"""Counts the elements of a msgpack document before it is parsed: one byte can become 64 bytes of memory.

Strict enough to bound what a parser allocates; the parser still checks whether the document is valid.
"""

from __future__ import annotations

ELEMENTS_MAX = 50_000
"""FLARE's own messages have hundreds of elements; our bytes are one element of any length."""
_FIXED = {0xC0: 1, 0xC2: 1, 0xC3: 1, 0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9}
_FIXED |= {0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9, 0xD4: 3, 0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18}
"""Length of scalars in bytes, by their first byte."""
_BYTES = {0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1)}
_BYTES |= {0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0)}
"""Byte and text strings: the size of their length field, and the bytes between it and the content."""
_CONTAINERS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
"""Arrays and maps: the size of their length field, and the elements per entry."""


def has_at_most(data: bytes | bytearray | memoryview, most: int = ELEMENTS_MAX) -> bool:
    """Whether a document has at most this many elements, by its content and by the sizes that its containers state.

    Args:
        data: the document.
        most: the limit.
    """
    position = found = said = 0
    end = len(data)
    while position < end:
        first = data[position]
        found += 1
        if first in _CONTAINERS:
            width, each = _CONTAINERS[first]
            said += each * int.from_bytes(data[position + 1 : position + 1 + width], "big")
            position += 1 + width
        elif first in _BYTES:
            width, more = _BYTES[first]
            position += 1 + width + more + int.from_bytes(data[position + 1 : position + 1 + width], "big")
        elif 0x80 <= first <= 0x9F:
            said += (first & 0x0F) * (2 if first < 0x90 else 1)
            position += 1
        elif 0xA0 <= first <= 0xBF:
            position += 1 + (first & 0x1F)
        else:
            position += _FIXED.get(first, 1)  # small numbers, and 0xC1, which every parser refuses
        if found > most or said > most:
            return False
    return True
