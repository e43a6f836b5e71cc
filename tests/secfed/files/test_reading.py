"""A file is read up to a bound, and what the disk says becomes a line with a next step."""

from __future__ import annotations

from pathlib import Path

import pytest

from secfed.errors import UserError
from secfed.files.reading import read_at_most
from secfed.study.problems import read_table_file
from secfed.study.sections import Section


class Two(Section):
    first: int
    second: int


def test_no_more_is_read_than_shows_that_a_file_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345678")
    assert read_at_most(path, 8, "the file", "") == b"12345678"
    assert read_at_most(path, 3, "the file", "") == b"1234"


@pytest.mark.parametrize(("what", "text"), [("the study file", "the study file {}"), ("", "{}")])
def test_a_file_that_is_not_there_is_named_with_the_next_step(tmp_path: Path, what: str, text: str) -> None:
    with pytest.raises(UserError) as caught:
        read_at_most(tmp_path / "gone", 8, what, "Look for it")
    assert caught.value.what == text.format(tmp_path / "gone") + " cannot be read (No such file or directory)"
    assert caught.value.next_step == "Look for it"


def test_all_that_is_wrong_with_a_small_table_is_told_with_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text('first = "one"\nthird = 3\n')
    with pytest.raises(UserError) as caught:
        read_table_file(Two, path, "")
    told = str(caught.value)
    assert "line 1, first" in told
    assert "line 2, third: this key is unknown" in told
    assert "second" in told
