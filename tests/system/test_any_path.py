"""Every command, with every path that it takes set to what is none: words and an exit code, and nothing left behind.

The commands are those that the program has now, so that one that is added is tried, too. What else a command needs is
given by name (`GIVEN`), and is good.
"""

from __future__ import annotations

import inspect
import os
import random
import signal
import stat
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from secfed.cli import app
from secfed.demo.workspace import DemoSettings, prepare_demo
from secfed.node.enrol import NewBudget
from secfed.study.manifest import load_study
from tests.command_line import exit_code
from tests.homes import set_up
from tests.tiny import make_tiny_base

FIRST = "harbour-clinic"
MADE = {"out", "html", "picture"}
"""Paths of what a command makes; `secfed node init` makes a home, too."""
GIVEN: dict[str, str] = {
    "study": "{root}/study.toml",
    "before": "{root}/study.toml",
    "after": "{root}/study.toml",
    "file": "{root}/new.jsonl",
    "home": "{root}/home",
    "model": "{root}/model",
    "out": "{root}/out/new",
    "population": f"patients of {FIRST}",
    "server": "a.example:8002",
    "site": FIRST,
    "identity": "ab" * 32,
}
"""Good values, by the parameter's name; a path of another name is of a file that is not there, and a text `letters`."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a command takes."""

    name: str
    option: str
    """Empty for an argument."""
    is_path: bool
    is_number: bool
    required: bool


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the program."""

    words: tuple[str, ...]
    parameters: tuple[Parameter, ...]


def commands(group: Any = None, words: tuple[str, ...] = ()) -> Iterator[Command]:
    """All of the program's."""
    group = group or typer.main.get_command(app)
    for name, each in group.commands.items():
        if hasattr(each, "commands"):
            yield from commands(each, (*words, name))
        else:
            yield Command((*words, name), tuple(_parameters(each)))


def _parameters(command: Any) -> Iterator[Parameter]:
    hints = typing.get_type_hints(inspect.unwrap(command.callback))
    for each in command.params:
        if each.name in hints:
            kinds = _inside(hints[each.name])
            option = each.opts[0] if each.param_type_name == "option" else ""
            yield Parameter(each.name, option, Path in kinds, bool({int, float} & kinds), each.required)


def _inside(hint: Any) -> set[Any]:
    """A type and all that it is made of."""
    return {hint}.union(*map(_inside, typing.get_args(hint)))


def arguments(command: Command, root: Path, bad: Parameter, path: Path) -> list[str]:
    """A command's arguments, all good but one."""
    found = [*command.words]
    for each in command.parameters:
        good = str(root / "is-not-there") if each.is_path else "1" if each.is_number else "letters"
        value = str(path) if each is bad else GIVEN.get(each.name, good).format(root=root)
        if each is bad or each.required or each.name == "home":
            found += [each.option, value] if each.option else [value]
    return [*found, *(["--yes"] if any(each.option == "--yes" for each in command.parameters) else [])]


def _write(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


def _null(path: Path) -> Path:
    """A device that is nobody else's, where this user could do away with the machine's own."""
    if os.geteuid() != 0:
        return Path(os.devnull)
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    return path


def _may_be(command: Command, parameter: Parameter) -> set[str]:
    """What is not bad for this parameter."""
    if parameter.name in {"html", "picture"}:
        return NEW | PLAIN
    if parameter.name in MADE:
        return NEW | {"folder"}
    return {"missing", "folder"} if (command.words, parameter.name) == (("node", "init"), "home") else set()


BAD: dict[str, Callable[[Path], Path | None]] = {
    "missing": lambda path: None,
    "below-a-file": lambda path: (path.write_text("a file") and None) or path / "below",
    "name-too-long": lambda path: path.with_name("n" * 300),
    "folder": lambda path: path.mkdir(),
    "empty": _write(b""),
    "random": _write(random.Random(1).randbytes(1024)),
    "not-utf-8": _write(b'name = "\xff\xfe"\n'),
    "deep-toml": _write(b"name = " + b"[" * 100_000),
    "deep-json": _write(b"[" * 100_000),
    "dangling-link": lambda path: path.symlink_to("nowhere/at/all"),
    "link-to-itself": lambda path: path.symlink_to(path),
    "device": _null,
    "unreadable": lambda path: (path.write_text("{}"), path.chmod(0))[1],
}
NEW = {"missing", "dangling-link"}
"""What may well be made."""
PLAIN = {"empty", "random", "not-utf-8", "deep-toml", "deep-json", "unreadable", "device"}
"""What a page or a picture may well replace, or be written to."""
CASES = [
    pytest.param(command, each, kind, id=f"{'-'.join(command.words)}-{each.name}-{kind}")
    for command in commands()
    for each in command.parameters
    if each.is_path
    for kind in BAD
    if kind not in _may_be(command, each)
]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = make_tiny_base(tmp_path_factory.mktemp("base"))
    root = tmp_path_factory.mktemp("good") / "workspace"
    layers: dict[str, Any] = {"patients": 400, "test_records_per_chapter": 3, "layers": (0, 1), "max_length": 12}
    study = load_study(prepare_demo(root, base=base, settings=DemoSettings(**layers, steps=2, rank=2)))
    entry = study.roster[study.index_of(FIRST)]
    budget = NewBudget(entry.patients, study.privacy.epsilon, study.privacy.delta, "")
    home = set_up(root / "homes" / FIRST, root / "study.toml", root / "sites" / FIRST / "patients.jsonl", budget)
    home.path.rename(root / "home")
    (root / "new.jsonl").write_text('{"patient": "p-1", "text": "fracture of the left bone", "label": "bones"}\n')
    return root


@pytest.mark.sweep
@pytest.mark.parametrize(("command", "parameter", "kind"), CASES)
def test_a_path_that_is_none_is_words_and_an_exit_code(
    good: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: Command,
    parameter: Parameter,
    kind: str,
) -> None:
    if kind == "unreadable" and os.geteuid() == 0:
        pytest.skip("root reads every file")
    path = tmp_path / "given"
    path = BAD[kind](path) or path
    for variable in ("SECFED_HOME", "SECFED_AGGREGATOR", "HOME", "TMPDIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "execve", None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # a demo's handlers are for a process of its own
    before = contents(good), contents(tmp_path)
    code = exit_code(monkeypatch, *arguments(command, good, parameter, path))
    said = capsys.readouterr()
    assert code in (1, 2), said
    assert "Traceback" not in said.out + said.err
    assert (contents(good), contents(tmp_path)) == before


def contents(folder: Path) -> set[tuple[str, int, int]]:
    """Every file and folder, with what it is, and when a file was written."""
    found = set()
    for path in folder.rglob("*"):
        status = path.lstat()
        plain = stat.S_ISREG(status.st_mode)
        found.add((str(path), stat.S_IFMT(status.st_mode), status.st_mtime_ns if plain else 0))
    return found
