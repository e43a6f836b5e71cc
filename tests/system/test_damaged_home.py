"""A node's home with one damaged file, met by every command of its owner: words that name it, and nothing is spent.

Damage is of every kind that a disk, a full file system or a restore leaves. The commands are those that the program has
now (`tests.system.test_any_path`).
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from secfed.demo.workspace import DemoSettings
from secfed.node.home import APPROVAL, CHOICE, KEY, NODE, POLICY, STUDIES, STUDY
from secfed.node.sites import LEDGER_FILE, STORE_FILE
from secfed.node.store import NodeStore
from tests.command_line import exit_code
from tests.homes import approve_at, make_hospitals
from tests.system.test_any_path import Command, commands, contents
from tests.tiny import make_tiny_base

FOR_OWNERS = [
    each
    for each in commands()
    if any(parameter.name == "home" for parameter in each.parameters) and each.words != ("node", "init")
]
GIVEN = {"population": "patients of harbour-clinic", "file": "{root}/new.jsonl", "name": "letters", "kit": "{root}/kit"}


def _other_tables(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.executescript("CREATE TABLE entries (other TEXT); CREATE TABLE floor (other TEXT)")
    connection.close()
    path.chmod(0o600)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "cut-off": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "cut-in-its-head": lambda path: path.write_bytes(path.read_bytes()[:50]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "other-bytes": lambda path: path.write_bytes(bytes(range(256)) * 4),
    "zeros-inside": lambda path: path.write_bytes(path.read_bytes()[:120] + bytes(path.stat().st_size)),
    "folder": _folder,
    "link-to-nowhere": lambda path: (path.unlink(), path.symlink_to("nowhere/at/all")),
}
FILES = [KEY, POLICY, NODE, LEDGER_FILE, STORE_FILE, STUDY, APPROVAL, CHOICE]
CASES = [
    pytest.param(command, file, damage, id=f"{'-'.join(command.words)}-{file}-{damage}")
    for command in FOR_OWNERS
    for file in FILES
    for damage in [*DAMAGE, *(["other-tables"] if file.endswith(".sqlite") else [])]
]
DAMAGE["other-tables"] = _other_tables


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the home of a node that has approved a study, and has joined a round."""
    root = tmp_path_factory.mktemp("good") / "good"
    layers: dict[str, Any] = {"patients": 400, "test_records_per_chapter": 3, "layers": (0, 1), "max_length": 12}
    hospitals = make_hospitals(
        root, make_tiny_base(tmp_path_factory.mktemp("base")), DemoSettings(**layers, steps=2, rank=2)
    )
    home = hospitals.homes[0]
    approve_at(home, hospitals.study_path)
    with home.open_ledger() as ledger:
        ledger.commit(hospitals.study.digest, 1)
    with NodeStore(home.path / STORE_FILE) as store:
        store.join(hospitals.study.digest, 1, bytes(32))
    for name in (LEDGER_FILE, STORE_FILE):
        assert not (home.path / f"{name}-wal").exists()
    shutil.copytree(home.path, root / "home")
    (root / "new.jsonl").write_text('{"patient": "p-1", "text": "fracture of the left bone", "label": "bones"}\n')
    return root


def arguments(command: Command, root: Path, home: Path) -> list[str]:
    """A command with its home, and all else good."""
    digest = next((root / "home" / STUDIES).iterdir()).name
    study = str(root / "workspace" / "study.toml") if command.words == ("node", "approve") else digest
    found = [*command.words, "--home", str(home)]
    for each in command.parameters:
        if each.required:
            value = {**GIVEN, "study": study}.get(each.name, "1" if each.is_number else "letters").format(root=root)
            found += [each.option, value] if each.option else [value]
    return [*found, *(["--yes"] if any(each.option == "--yes" for each in command.parameters) else [])]


@pytest.mark.sweep
@pytest.mark.parametrize(("command", "file", "damage"), CASES)
def test_a_damaged_file_is_named_with_what_to_do(
    good: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: Command,
    file: str,
    damage: str,
) -> None:
    home = tmp_path / "home"
    shutil.copytree(good / "home", home)
    study = next((home / STUDIES).iterdir())
    path = study / file if file in {STUDY, APPROVAL, CHOICE} else home / file
    DAMAGE[damage](path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = contents(tmp_path)
    code = exit_code(monkeypatch, *arguments(command, good, home))
    said = capsys.readouterr()
    told = said.out + said.err
    assert code in (0, 1, 2), told
    assert "Traceback" not in told
    if command.words[-1] == "doctor":
        assert code == 1
        assert path.name in told or path.parent.name[:16] in told
    if code == 2:
        assert told.startswith("secfed: ")
        assert told.count("\n") == 1 or "problems" in told
        assert file in told or "kit" in told or "letters" in told or "stopped" in told or "committed" in told, told
        opened = {path} if damage in {"empty", "other-tables"} else set()  # SQLite makes tables in these
        assert {each for each in contents(tmp_path) ^ before if Path(each[0]) not in opened} == set()
