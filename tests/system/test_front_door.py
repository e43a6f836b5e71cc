"""What a stranger reads first says the same thing everywhere."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
from packaging.version import Version

import secfed

ROOT = Path(__file__).parents[2]

_spec = importlib.util.spec_from_file_location("no_requests", ROOT / "docs" / "site" / "no_requests.py")
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
requests = _module.requests

# The licence's text as the Apache Software Foundation publishes it, to the byte.
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_the_licence_is_the_published_text() -> None:
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (project["license"], project["license-files"]) == ("Apache-2.0", ["LICENSE"])
    assert "\nlicense: Apache-2.0\n" in (ROOT / "CITATION.cff").read_text()


def test_the_version_is_one_everywhere_and_between_releases_another_than_the_last_ones() -> None:
    """A release is cited, with its day, and heads the changelog. What comes after it goes by another version: what it
    writes may differ."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert secfed.__version__ == project["version"]
    cited = (ROOT / "CITATION.cff").read_text()
    [released] = re.findall(r"^version: (.*)$", cited, re.MULTILINE)
    [day] = re.findall(r"^date-released: (\d{4}-\d\d-\d\d)$", cited, re.MULTILINE)
    first, *others = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    if first == "Unreleased":
        assert Version(released) < Version(secfed.__version__)
        assert Version(secfed.__version__).is_devrelease
        first = others[0]
    else:
        assert released == secfed.__version__
    assert first == f"{released} - {day}"


POLICY = '<meta http-equiv="Content-Security-Policy" content="default-src \'self\'">'


@pytest.mark.parametrize(
    "loads",
    [
        '<script src="https://elsewhere.example/a.js"></script>',
        '<link rel="stylesheet" href="//elsewhere.example/a.css">',
        '<link rel="preconnect" href="https://elsewhere.example">',
        '<img srcset="a.png 1x, https://elsewhere.example/a.png 2x">',
        "<style>@import 'https://elsewhere.example/a.css';</style>",
        '<p style="background: url(https://elsewhere.example/a.png)"></p>',
        '<meta http-equiv="refresh" content="0; url=https://elsewhere.example/">',
    ],
)
def test_a_page_of_the_site_that_loads_something_from_elsewhere_is_found(tmp_path: Path, loads: str) -> None:
    (tmp_path / "page.html").write_text(POLICY + loads)
    assert [found.split(" loads ")[0] for found in requests(tmp_path)] == ["page.html"]


def test_a_page_with_links_and_files_of_its_own_loads_nothing(tmp_path: Path) -> None:
    own = (
        '<a href="https://elsewhere.example">a link</a><script src="a.js"></script><img src="data:image/png;base64,AA">'
    )
    (tmp_path / "page.html").write_text(POLICY + own)
    (tmp_path / "page.css").write_text("p { background: url('a.png') }")
    assert list(requests(tmp_path)) == []


def test_a_page_that_lets_its_scripts_go_anywhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<p>no policy</p>")
    assert list(requests(tmp_path)) == ["page.html has no Content-Security-Policy"]
