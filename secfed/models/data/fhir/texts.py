"""Texts out of FHIR resources: attachments decoded, markup parsed, sections chosen. Sizes are bounded by the line."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from secfed.errors import UserError
from secfed.models.libraries import how_to_add

_MARKUP = ("text/html", "application/xhtml+xml")
_CHARSETS = ("utf-8", "us-ascii", "iso-8859-1", "windows-1252")
_CHARSET = re.compile(r';\s*charset\s*=\s*"?([a-z0-9_-]+)')
_UNSEEN = frozenset(("head", "script", "style", "template", "title"))
_EMPTY_UNSEEN = re.compile(r"<(?:script|style|template|title)\b[^<>]*/>", re.IGNORECASE)
"""In XHTML, <style/> hides nothing; HTML would take all that follows for a style."""
_INLINE = frozenset(("a", "abbr", "b", "code", "em", "font", "i", "img", "small", "span", "strong", "sub", "sup", "u"))
"""Any other tag begins a line, but for cells."""
_LINE_ENDS = frozenset(("br", "hr"))
"""They have no inside: where they begin a line ends, and once."""
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

    Read by lxml, in time that grows with the length alone: Python's own parser takes hours over some documents.

    Raises:
        UserError: lxml is not installed.
    """
    try:
        from lxml import etree
    except ImportError as error:
        raise UserError(
            "lxml, which reads markup, is not installed here", f"Install it: {how_to_add('fhir')}"
        ) from error
    parser = etree.HTMLParser(target=_Text(), huge_tree=True, no_network=True)
    parser.feed(f"<html>{_EMPTY_UNSEEN.sub('', markup)}")
    lines = (" ".join(line.split()) for line in parser.close().splitlines())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


class _Text:
    """Takes what the parser finds, in order. What is nothing of a page's text, such as a comment, it is not told."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._unseen = 0
        """How many elements are open in which nothing is text for people."""

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._unseen += tag in _UNSEEN
        self._break(tag)

    def end(self, tag: str) -> None:
        self._unseen -= tag in _UNSEEN
        if tag not in _LINE_ENDS:
            self._break(tag)

    def data(self, text: str) -> None:
        if not self._unseen:
            self._pieces.append(text)

    def close(self) -> str:
        return "".join(self._pieces)

    def _break(self, tag: str) -> None:
        if tag in _CELLS:
            self._pieces.append(" ")
        elif tag not in _INLINE:
            self._pieces.append("\n")


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
