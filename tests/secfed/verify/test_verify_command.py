"""The offline verifier: what a summary claims, the command, and files made to hurt whoever reads them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from protocols.wire import canonical
from secfed.reports import folder as run_folder
from secfed.reports.folder import sum_file
from secfed.verify.evidence import read_file
from tests.command_line import exit_code
from tests.secfed.verify.verified import WEIGHTS, problem_in

# What is claimed about the run.


def edited(folder: Path, place: str, *path: str | int, value: object) -> tuple[str, str]:
    claims = json.loads((folder / place).read_text())
    inner = claims
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    (folder / place).write_text(json.dumps(claims))
    return problem_in(folder)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("study_digest",), "00" * 32),
        (("state_digest",), "00" * 32),
        (("rounds", 0, "receipt_digest"), "00" * 32),
        (("rounds", 0, "sum_digest"), "00" * 32),
        (("rounds", 1, "survivors"), ["hospital-0"]),
        (("rounds", 1, "quorum"), 5),
        (("rounds", 1, "number"), 1),
        (("rounds", 0, "attempt_void"), True),
        (("rounds", 2, "survivors"), ["hospital-0"]),
        (("rounds", 0), "none"),
        (("rounds",), {}),
        (("hospitals", 2, "ledger_head"), "00" * 32),
        (("hospitals", 2, "population"), "other patients"),
        (("hospitals", 2, "rounds_committed"), 1),
        (("hospitals", 2, "left_epsilon"), 8.0),
        (("hospitals", 2, "epsilon"), 8.1),
        (("hospitals", 2, "epsilon"), float("nan")),
        (("hospitals", 2, "state_digest"), "00" * 32),
        (("hospitals",), []),
    ],
)
def test_a_summary_that_says_something_else_is_found(folder: Path, path: tuple[str | int, ...], value: object) -> None:
    assert edited(folder, "summary.json", *path, value=value)[0] == "summary.json"


def test_a_summary_that_leaves_a_round_out_is_found(folder: Path) -> None:
    rounds_told = json.loads((folder / "summary.json").read_text())["rounds"]
    place, reason = edited(folder, "summary.json", "rounds", value=rounds_told[1:])
    assert (place, reason) == ("summary.json", "round 1 has a receipt and is not listed")


# The command.


def test_the_command_says_what_it_checked_and_ends_0(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(monkeypatch, "verify", str(folder)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["study", "receipts", "adapter", "ledgers", "summary", "report"]
    assert lines[-1] == "everything holds"


def test_the_command_names_the_broken_file_and_ends_1(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / sum_file(2)).write_bytes(bytes(40))
    assert exit_code(monkeypatch, "verify", str(folder)) == 1
    assert "BROKEN     sums/0002.bin: not the sum" in capsys.readouterr().out
    assert exit_code(monkeypatch, "verify", str(folder), "--json") == 1
    result = json.loads(capsys.readouterr().out)
    assert result["ok"] is False
    assert list(result["checked"]) == ["study"]
    assert result["problem"] == {"place": "sums/0002.bin", "reason": "not the sum that receipts/0002.cbor covers"}


@pytest.mark.parametrize("content", [None, "empty", "a study that never ran"])
def test_a_folder_without_a_run_ends_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    folder = tmp_path / "folder"
    if content is not None:
        folder.mkdir()
    if content == "a study that never ran":
        (folder / "study.toml").write_text("format = 1")
    assert exit_code(monkeypatch, "verify", str(folder)) == 2
    assert "is not the folder of a run" in capsys.readouterr().err


@pytest.mark.sweep
def test_the_verifier_needs_no_machine_learning_library_and_no_network(folder: Path) -> None:
    """In a fresh interpreter, as a shell starts it; imports are refused as if nothing were installed. An accountant is
    needed, for epsilon is computed again."""
    code = (
        "import sys\n"
        "class NotInstalled:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'transformers', 'opacus', 'peft'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, NotInstalled())\n"
        "import socket\n"
        "socket.socket.connect = socket.getaddrinfo = None\n"
        f"sys.argv = ['secfed', 'verify', {str(folder)!r}]\n"
        "from secfed.cli import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("everything holds\n")


def make_void(folder: Path, layout: list[Any], numbers: int) -> None:
    """No receipts: nobody but the folder's author vouches for the first state."""
    for part in ("receipts", "sums"):
        shutil.rmtree(folder / part)
    state = {"adapter": bytes(4 * numbers), "layout": layout}
    (folder / run_folder.FIRST_STATE).write_bytes(canonical(state))


@pytest.mark.parametrize("shape", [[1] * 65 + [11], [2**64 - 1] * 50_000, [2**63]], ids=["axes", "many", "large"])
def test_a_first_state_of_impossible_shape_is_refused_at_once(folder: Path, shape: list[int]) -> None:
    make_void(folder, [["a", shape]], 11)
    assert problem_in(folder) == (run_folder.FIRST_STATE, "not a name and a shape in its layout")


def test_a_frozen_tensor_of_more_rows_than_the_rank_is_not_computed_again(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({**tensors, "more.lora_A.weight": np.zeros((1500, 1500), np.float32)}, folder / WEIGHTS)
    assert problem_in(folder) == (WEIGHTS, "more.lora_A.weight has more rows than the adapter's rank, 2")


def test_reading_a_small_file_makes_no_room_for_the_largest(folder: Path) -> None:
    tracemalloc.start()
    try:
        read_file(folder, run_folder.SUMMARY)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("place", ["summary.json", "first_state.cbor", "receipts/0001.cbor"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(folder: Path, place: str) -> None:
    (folder / place).unlink()
    os.mkfifo(folder / place)
    assert problem_in(folder) == (place, "not a plain file")
