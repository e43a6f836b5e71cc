"""A folder that is made in a block is whole, or it is gone: and what was there before stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from secfed.errors import UserError
from secfed.files.whole import check_new, check_writable, whole_or_gone


def begin(folder: Path, name: str, end: BaseException) -> None:
    """Make some of a folder, and end early."""
    with whole_or_gone(folder):
        (folder / name).mkdir()
        (folder / name / "file").write_text("")
        raise end


def test_a_block_that_ends_early_leaves_nothing_of_what_it_made(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        begin(tmp_path / "a" / "b", "half", KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []


def test_what_was_in_the_folder_before_stays(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "more").write_text("")
    with pytest.raises(ValueError, match="no"):
        begin(tmp_path, "half", ValueError("no"))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["kept", "more"]


def test_what_the_disk_says_is_told_and_nothing_stays(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"), whole_or_gone(tmp_path / "new"):
        (tmp_path / "new" / ("x" * 300)).write_text("")
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_ends_well_leaves_all_of_it(tmp_path: Path) -> None:
    with whole_or_gone(tmp_path / "new"):
        (tmp_path / "new" / "file").write_text("text")
    assert (tmp_path / "new" / "file").read_text() == "text"
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["file", "file/below", "x" * 300])
def test_a_folder_that_cannot_be_made_is_refused_before(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        check_writable(tmp_path / name)


def test_a_new_folder_is_empty_or_not_there(tmp_path: Path) -> None:
    check_new(tmp_path)
    check_new(tmp_path / "a" / "b")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not empty"):
        check_new(tmp_path)
