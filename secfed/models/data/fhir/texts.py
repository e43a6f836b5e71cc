"""Texts out of FHIR resources: attachments decoded, markup parsed, sections chosen. Sizes are bounded by the line."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from typing import Any

_MARKUP = ("text/html", "application/xhtml+xml")
_CHARSETS = ("utf-8", "us-ascii", "iso-8859-1", "windows-1252")
_CHARSET = re.compile(r';\s*charset\s*=\s*"?([a-z0-9_-]+)')
_UNSEEN = frozenset(("head", "script", "style", "template", "title"))
_INLINE = frozenset(("a", "abbr", "b", "code", "em", "font", "i", "img", "small", "span", "strong", "sub", "sup", "u"))
"""Any other tag begins a line, but for cells."""
_CELLS = frozenset(("td", "th"))
_NESTED_MAX = 32


class Unusable(Exception):
    """A resource is not as FHIR has it; the text says in what, and nothing of what it says."""


def decoded_attachment(attachment: Mapping[str, Any]) -> tuple[str, str]:
    """The text of an attachment.

    Returns:
        The text, and why there is none: another type, or data that lie elsewhere. One of them is empty.

    Raises:
        Unusable: it is damaged, or in another encoding than it says.
    """
    said = str(attachment.get("contentType", "")).lower()
    kind = said.split(";")[0].strip()
    if kind != "text/plain" and kind not in _MARKUP:
        return "", f"an attachment of type {kind if re.fullmatch('[a-z0-9.+/-]{1,80}', kind) else 'unknown'}"
    data = attachment.get("data")
    if data is None:
        return "", "an attachment whose data is not in the export"
    named = _CHARSET.search(said)
    charset = named[1] if named else "utf-8"
    if not isinstance(data, str) or charset not in _CHARSETS:
        raise Unusable("has an attachment that is not in Base64, or in an encoding that is not known here")
    try:
        text = base64.b64decode("".join(data.split()), validate=True).decode(charset)
    except (binascii.Error, ValueError):
        raise Unusable(f"has an attachment that is not in Base64, or not in {charset}") from None
    return (plain_text(text) if kind in _MARKUP else text.strip()), ""


def plain_text(markup: str) -> str:
    """HTML as the text that a person would read: a line for each block, no scripts and styles, blanks as one.

    Raises:
        Unusable: Python's parser cannot read it.
    """
    parser = _Text()
    try:
        parser.feed(markup)
        parser.close()
    except AssertionError:  # what it raises for a marked section of a kind that it does not know
        raise Unusable("has markup that cannot be read") from None
    lines = (" ".join(line.split()) for line in "".join(parser.pieces).splitlines())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._unseen = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _UNSEEN and not self._unseen:
            self._unseen = tag
        self._break(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._break(tag)  # in XHTML: <style/> hides nothing

    def handle_endtag(self, tag: str) -> None:
        if tag == self._unseen:
            self._unseen = ""
        self._break(tag)

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.pieces.append(data)

    def _break(self, tag: str) -> None:
        if tag in _CELLS:
            self.pieces.append(" ")
        elif tag not in _INLINE:
            self.pieces.append("\n")


def section_text(composition: Mapping[str, Any], wanted: Sequence[str]) -> str:
    """The text of a Composition's sections, a blank line between them.

    Args:
        composition: the resource.
        wanted: titles and codes of those that are taken, with the sections inside them; all if empty.

    Raises:
        Unusable: it has something else for sections.
    """
    return "\n\n".join(_sections(composition, frozenset(wanted), not wanted, 0))


def _sections(parent: Mapping[str, Any], wanted: frozenset[str], taken: bool, depth: int) -> Iterator[str]:
    if depth > _NESTED_MAX:
        raise Unusable(f"has sections in more than {_NESTED_MAX} others")
    for section in objects(parent.get("section"), "sections"):
        title = section.get("title")
        takes = taken or (isinstance(title, str) and title in wanted) or not wanted.isdisjoint(codes(section, "code"))
        narrative = section.get("text")
        if takes and isinstance(narrative, dict) and isinstance(narrative.get("div"), str):
            text = plain_text(narrative["div"])
            if text:
                yield text
        yield from _sections(section, wanted, takes, depth + 1)


def codes(resource: Mapping[str, Any], key: str, system: str = "") -> list[str]:
    """The codes in a CodeableConcept of a resource, of this system or of any."""
    concept = resource.get(key)
    if not isinstance(concept, dict):
        return []
    return [
        coding["code"]
        for coding in objects(concept.get("coding"), f"codings in {key}")
        if isinstance(coding.get("code"), str) and (not system or coding.get("system") == system)
    ]


def objects(value: Any, what: str) -> list[dict[str, Any]]:
    """A list of JSON objects; empty where there is nothing. Raises Unusable where there is something else."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise Unusable(f"has something else for its {what} than a list of objects")
    return value
