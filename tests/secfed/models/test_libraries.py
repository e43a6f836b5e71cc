"""What is missing is installed from where this secfed came from, and never by a name that a stranger may claim."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

from secfed import __version__
from secfed.errors import UserError
from secfed.models import libraries
from secfed.models.libraries import how_to_add, require_flare

NOWHERE = f"`pip install './secfed-{__version__}-py3-none-any.whl[flare]'`"


@pytest.mark.parametrize(
    ("noted", "hint"),
    [
        ({"url": "file:///srv/secfed", "dir_info": {"editable": True}}, "pip install --editable '/srv/secfed[flare]'"),
        ({"url": "file:///srv/my%20secfed", "dir_info": {}}, "pip install '/srv/my secfed[flare]'"),
        ({"url": "file:///srv/secfed-0.1.0-py3-none-any.whl", "archive_info": {}}, "py3-none-any.whl[flare]'"),
        ({"url": "https://example.org/secfed.whl"}, NOWHERE),
        (None, NOWHERE),
    ],
)
def test_the_hint_names_the_folder_or_wheel_that_was_installed(
    monkeypatch: pytest.MonkeyPatch, noted: dict[str, object] | None, hint: str
) -> None:
    text = None if noted is None else json.dumps(noted)
    monkeypatch.setattr(libraries, "distribution", lambda name: SimpleNamespace(read_text=lambda file: text))
    assert hint in how_to_add("flare")


def test_a_copy_that_nobody_installed_has_a_hint_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(libraries, "distribution", none)
    assert NOWHERE in how_to_add("flare")


def test_a_missing_engine_is_refused_with_that_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as refused:
        require_flare()
    assert how_to_add("flare") in str(refused.value)


def test_no_hint_of_the_program_names_the_bare_package() -> None:
    for path in (Path(libraries.__file__).parent).rglob("*.py"):
        assert "'secfed[" not in path.read_text(), path
