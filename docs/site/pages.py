"""Brings the repository's pages and an API reference into the site, each from its own folder.

The site has the repository's tree, so links between pages work in both, and no text exists twice. The reference has one
page for each package and each room of `secfed`, made from the docstrings.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]

import no_requests  # noqa: E402  (their folders stand on no path before)
import pictures  # noqa: E402

PAGES = (
    "*.md",
    "docs/*.md",
    "docs/decisions/*.md",
    "docs/systemd/*",
    "docs/pictures/*",
    "protocols/*.md",
    "bench/*.md",
)
"""What belongs to the site, apart from its own folder."""

PACKAGES = ("crypto", "dp", "protocols", "secfed")
"""What the reference covers. Nobody imports `audits`: it is run."""

DECISIONS = "docs/decisions/"
API = "api/"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the two parts of the navigation that follow from folders, and add the pages that it does not name."""
    nav = _filled(config.nav or [])
    named = set(_targets(nav))
    pages = (path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("docs/*.md")))
    more = [page for page in pages if page not in named]
    config.nav = [*nav[:-1], *([{"More": more}] if more else []), nav[-1]]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside the site's folder, and one for each package of the reference."""
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    for package in _packages():
        submodules = "true" if package != "secfed" else "false"
        content = f"::: {package}\n    options:\n      show_submodules: {submodules}\n"
        files.append(File.generated(config, f"{API}{package}.md", content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Draw the pictures that a page asks for."""
    return pictures.drawn(markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site with a page that would load something from elsewhere.

    Raises:
        PluginError: such a page exists.
    """
    if found := list(no_requests.requests(Path(config.site_dir))):
        raise PluginError("\n".join(found))


def _filled(nav: list[Any]) -> list[Any]:
    return [
        {title: _filled(target) if isinstance(target, list) else _folder(target) for title, target in entry.items()}
        for entry in nav
    ]


def _targets(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        for target in entry.values() if isinstance(entry, dict) else [entry]:
            yield from _targets(target) if isinstance(target, list) else [target]


def _folder(target: str) -> str | list[Any]:
    if target == API:
        return [{package: f"{API}{package}.md"} for package in _packages()]
    if target == DECISIONS:
        pages = sorted((ROOT / DECISIONS).glob("[0-9]*.md"))
        return [f"{DECISIONS}README.md", *(f"{DECISIONS}{page.name}" for page in pages)]
    return target


def _packages() -> list[str]:
    rooms = sorted(folder.parent.name for folder in (ROOT / "secfed").glob("*/__init__.py"))
    return [*PACKAGES, *(f"secfed.{room}" for room in rooms), "secfed.errors"]
