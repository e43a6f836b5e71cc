"""What a page of the documentation shows is what its commands print."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.console import ROOT, Sandbox, furnish, lay_out, masked, played


@pytest.mark.sweep
@pytest.mark.timeout(1200)
def test_every_command_of_the_page_about_nodes_prints_what_the_page_shows(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "node.md").read_text()
    assert "Approve this study, and reserve this budget? [y/N]: y" in page
    assert masked(played(page, lay_out(tmp_path))) == masked(page)


def test_every_command_of_the_page_about_data_prints_what_the_page_shows(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "data.md").read_text()
    assert "Composition" in page
    assert played(page, furnish(tmp_path)) == page


def test_a_page_that_shows_something_else_is_found(tmp_path: Path) -> None:
    page = "```console\n$ echo one\ntwo\n```\n<!-- run: echo three > file -->\n```console\n$ cat file\n```\n"
    found = played(page, Sandbox(tmp_path))
    assert found == page.replace("two\n", "one\n").replace("$ cat file\n", "$ cat file\nthree\n")
    assert played(found, Sandbox(tmp_path)) == found


def test_a_mask_takes_out_what_differs_and_leaves_figures(tmp_path: Path) -> None:
    fingerprint = " ".join(["ab12"] * 10)
    text = f"{fingerprint} {'0f' * 32} 2026-01-02T03:04:05+00:00 epsilon 8.0 of 16.0 for 1500"
    assert masked(text) == "FINGERPRINT DIGEST TIME epsilon 8.0 of 16.0 for 1500"
