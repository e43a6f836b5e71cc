"""The folder of bad inputs, walked: each is one line with the next step, exit code 2, nothing spent, nothing half-made.

`tests/bad_inputs/COMMAND/DEFECT.toml` is a good input with one defect, which it is named by:

    said        what the line that a person reads has to hold
    lines       that the person reads: more than one where the defect is several problems
    workspace   "local": a study in local mode; otherwise it is in distributed mode
    arguments   of the command, after its own; {root} stands for the workspace
    repin       study and policies pin the base model as the defect has left it
    [[change]]  of one file: `remove`, `cut` to so many bytes, `text` or `hex` for all of it, `append`, `chmod`,
                `folder` for one in its place, `after` to end it before what follows so many `times` of that, or
                `old` and `new` for the first place where it says so; with `every` for all of them

The workspace is the demo's, small, with one home beside it: of harbour-clinic, which is on the roster, has its data
registered, and has the base model.
"""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from secfed.demo.workspace import DemoSettings, prepare_demo
from secfed.node.enrol import NewBudget
from secfed.study.base import base_digest
from secfed.study.manifest import load_study
from tests.command_line import exit_code
from tests.homes import set_up
from tests.tiny import make_tiny_base

BAD_INPUTS = Path(__file__).parent.parent / "bad_inputs"
CASES = sorted(BAD_INPUTS.rglob("*.toml"))
FIRST = "harbour-clinic"
COMMANDS = {
    "run": ["run", "{root}/study.toml", "--out", "{out}", "--yes"],
    "approve": ["node", "approve", "{root}/study.toml", "--home", "{root}/home", "--yes"],
    "data-add": [
        "node",
        "data",
        "add",
        "{root}/new.jsonl",
        "--home",
        "{root}/home",
        "--population",
        f"patients of {FIRST}",
    ],
    "provision": ["federation", "provision", "{root}/study.toml", "--out", "{out}", "--server", "a.example:8002"],
}
ONE_RECORD = '{"patient": "p-1", "text": "fracture of the left bone", "label": "bones"}\n'


@pytest.fixture(scope="module")
def workspaces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A good workspace of either mode."""
    base = make_tiny_base(tmp_path_factory.mktemp("base"))
    made = {}
    for mode in ("distributed", "local"):
        root = tmp_path_factory.mktemp(mode) / "workspace"
        layers: dict[str, Any] = {"patients": 400, "test_records_per_chapter": 3, "layers": (0, 1), "max_length": 12}
        settings = DemoSettings(**layers, steps=2, local_steps=2, rank=2, mode=mode)  # type: ignore[arg-type]
        study = load_study(prepare_demo(root, base=base, settings=settings))
        entry = study.roster[study.index_of(FIRST)]
        budget = NewBudget(entry.patients, study.privacy.epsilon, study.privacy.delta, "")
        home = set_up(root / "homes" / FIRST, root / "study.toml", root / "sites" / FIRST / "patients.jsonl", budget)
        shutil.copyfile(root / "sites" / FIRST / "identity.key", home.path / "identity.key")
        home.path.rename(root / "home")
        home.path.parent.rmdir()
        (root / "new.jsonl").write_text(ONE_RECORD)
        made[mode] = root
    return made


@pytest.mark.parametrize("case", CASES, ids=[f"{case.parent.name}-{case.stem}" for case in CASES])
def test_a_bad_input_is_one_line_exit_2_and_nothing_spent_or_half_made(
    workspaces: Mapping[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: Path,
) -> None:
    told = tomllib.loads(case.read_text())
    root, out = tmp_path / "workspace", tmp_path / "out"
    good = workspaces[told.get("workspace", "distributed")]
    shutil.copytree(good, root)
    replace(root / "home" / "node.toml", str(good), str(root))
    for change in told.get("change", ()):
        spoil(root / change["file"], change)
    if told.get("repin"):
        repin(root)
    before = contents(tmp_path)
    arguments = [*COMMANDS[case.parent.name], *told.get("arguments", ())]
    assert exit_code(monkeypatch, *(each.format(root=root, out=out) for each in arguments)) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("secfed: ")
    assert complaint.count("\n") == told.get("lines", 1)
    assert told["said"] in complaint
    assert complaint.rstrip().endswith(".")
    assert contents(tmp_path) == before


@pytest.mark.sweep
def test_the_inputs_are_good_but_for_their_defects(
    workspaces: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for mode, good in workspaces.items():
        root, out = tmp_path / mode, tmp_path / f"{mode}-out"
        shutil.copytree(good, root)
        replace(root / "home" / "node.toml", str(good), str(root))
        for name in ("data-add", "approve", "run", "provision"):
            arguments = [each.format(root=root, out=out / name) for each in COMMANDS[name]]
            if name == "approve":
                arguments += ["--data", "letters"]
            assert exit_code(monkeypatch, *arguments) == 0, name


def spoil(path: Path, change: Mapping[str, Any]) -> None:
    """Make one change."""
    if change.get("remove"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif "cut" in change:
        path.write_bytes(path.read_bytes()[: change["cut"]])
    elif "text" in change:
        path.write_text(change["text"])
    elif "hex" in change:
        path.write_bytes(bytes.fromhex(change["hex"]))
    elif "append" in change:
        path.write_text(path.read_text() + change["append"])
    elif "after" in change:
        kept = path.read_text().split(change["after"])
        assert len(kept) > change["times"] + 1
        path.write_text(change["after"].join(kept[: change["times"] + 1]))
    elif change.get("folder"):
        path.unlink()
        path.mkdir()
    elif "chmod" in change:
        path.chmod(int(change["chmod"], 8))
    else:
        replace(path, change["old"], change["new"], -1 if change.get("every") else 1)


def replace(path: Path, old: str, new: str, count: int = -1) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))


def repin(root: Path) -> None:
    """Have study and policies name the base models as they are now."""
    for model, names in (
        (root / "model", ["study.toml", *(f"sites/{each.name}/policy.toml" for each in (root / "sites").iterdir())]),
        (root / "home" / "models" / "model", ["home/policy.toml"]),
    ):
        for name in names:
            text = (root / name).read_text()
            (root / name).write_text(re.sub(r"sha256:[0-9a-f]{64}", base_digest(model), text))


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder, with what is in it."""
    found = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in found}
