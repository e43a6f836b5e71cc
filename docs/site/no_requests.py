"""Checks that no page of the built site loads anything from elsewhere, and names those that do.

It reads what pages and style sheets load. It cannot see what a script would fetch, so every page must also have the
policy that makes browsers refuse such requests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

ELSEWHERE = re.compile(r"\s*([a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)

LOADING = {"src", "srcset", "poster", "data", "action", "formaction", "ping", "background", "xlink:href"}
"""Attributes whose address is fetched, whatever the element."""

LINKS = {"stylesheet", "icon", "preload", "modulepreload", "prefetch", "preconnect", "dns-prefetch", "manifest"}
"""Kinds of `link` that a browser fetches, or for which it connects to the host."""

POLICY = "Content-Security-Policy"


def requests(site: Path) -> Iterator[str]:
    """Each address elsewhere that a built page loads, and each page without a policy, with the file's name."""
    for path in sorted(site.rglob("*.html")):
        page = _Page()
        page.feed(path.read_text(encoding="utf-8"))
        yield from (f"{path.relative_to(site)} loads {address}" for address in page.elsewhere)
        if not page.has_policy:
            yield f"{path.relative_to(site)} has no {POLICY}"
    for path in sorted(site.rglob("*.css")):
        text = path.read_text(encoding="utf-8")
        yield from (f"{path.relative_to(site)} loads {address}" for address in _of_styles(text))


class _Page(HTMLParser):
    """What one page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.elsewhere: list[str] = []
        self.has_policy = False
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self._in_style = tag == "style"
        self.has_policy |= tag == "meta" and values.get("http-equiv") == POLICY
        loaded = [value for name, value in values.items() if name in LOADING]
        if tag in {"image", "use"} or (tag == "link" and LINKS & set(values.get("rel", "").split())):
            loaded.append(values.get("href", ""))
        if tag == "meta" and values.get("http-equiv", "").lower() == "refresh":
            loaded.append(values.get("content", "").partition("=")[2])
        addresses = [address for value in loaded for address in value.split(",")]
        self.elsewhere += [address for address in addresses if ELSEWHERE.match(address)]
        self.elsewhere += _of_styles(values.get("style", ""))

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.elsewhere += _of_styles(data)


def _of_styles(text: str) -> list[str]:
    found = re.findall(r"(?:url\(\s*|@import\s+)[\"']?([^\"')\s]+)", text)
    return [address for address in found if ELSEWHERE.match(address)]
