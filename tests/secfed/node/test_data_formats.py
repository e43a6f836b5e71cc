"""A node trains on the file that a hospital has: in its format, and in the encoding that its owner named."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from secfed.doctor.checkup import examine_node
from secfed.errors import UserError
from secfed.node.enrol import NewBudget, register
from secfed.node.home import Home
from secfed.node.settings import read_node_file
from tests.homes import COLUMNS, Hospitals, make_hospitals

NOTHING_NEW = NewBudget(None, None, None, "")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Hospitals:
    return make_hospitals(tmp_path_factory.mktemp("hospitals"), base)


@pytest.fixture
def home(pristine: Hospitals, tmp_path: Path) -> Home:
    shutil.copytree(pristine.homes[0].path, tmp_path / "home")
    return Home.open(tmp_path / "home")


def test_a_latin_1_file_is_read_as_its_owner_registered_it(pristine: Hospitals, home: Home, tmp_path: Path) -> None:
    letters = home.node.dataset("letters")
    rows = [json.loads(line) for line in Path(letters.file).read_text().splitlines()]
    rows[0]["text"] = "Schädelbruch"
    path = tmp_path / "letters.csv"
    with path.open("w", encoding="latin-1", errors="replace", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label", "patient"], delimiter=";", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(UserError, match="line 2 is not in UTF-8"):
        register(home, path, "german", letters.population, COLUMNS, NOTHING_NEW)
    opened, _ = register(home, path, "german", letters.population, COLUMNS, NOTHING_NEW, "latin-1")
    assert read_node_file(home.path / "node.toml").dataset("german").encoding == "latin-1"
    assert "utf-8" not in (home.path / "node.toml").read_text()
    before = opened.site(pristine.study, letters).patients
    after = opened.site(pristine.study, opened.node.dataset("german")).patients
    assert next(iter(after.values()))[0].text == "Schädelbruch"
    assert list(after) == list(before)
    assert sum(map(len, after.values())) == sum(map(len, before.values()))
    findings = examine_node(home.path, None)
    assert any("german" in each.check and each.state == "ok" for each in findings)
