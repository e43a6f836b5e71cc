"""A database in memory leaves nothing in the folder that somebody happens to work in."""

from __future__ import annotations

from pathlib import Path

import pytest

from dp.sqlite_file import open_durable


def test_a_database_in_memory_makes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_durable(Path(":memory:"), "CREATE TABLE anything (value)").close()
    assert list(tmp_path.iterdir()) == []
