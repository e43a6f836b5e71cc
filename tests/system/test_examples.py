"""What examples/ shows works as it stands there, and comes out as it says."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def _there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, one_thread: None) -> None:
    """As `python examples/averaging.py` and a notebook's kernel have it: the examples' folder is on the path."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.sweep
def test_federated_averaging_learns_and_its_run_verifies(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "averaging.py"), run_name="__main__")
    *rounds, accuracy, verdict = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in rounds] == ["round 1", "round 2", "round 3"]
    assert rounds[-1].endswith("4 sites, epsilon 8.00 spent so far")
    before, after = map(float, re.findall(r"\d\.\d\d", accuracy))
    assert after > before + 0.2
    assert verdict.startswith("the run verifies")


@pytest.mark.sweep
def test_the_notebook_draws_its_curve_and_holds_no_output(capsys: pytest.CaptureFixture[str]) -> None:
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [(cell["outputs"], cell["execution_count"]) for cell in cells] == [([], None)] * len(cells)
    names: dict[str, object] = {}
    for cell in cells:
        exec(compile("".join(cell["source"]), "notebook.ipynb", "exec"), names)  # noqa: S102 - our own file
    drawn = re.findall(r"^epsilon +(\S+)  accuracy (\d\.\d\d)  (#+)$", capsys.readouterr().out, re.MULTILINE)
    assert [epsilon for epsilon, *_ in drawn] == ["0.1", "1", "8"]
    assert float(drawn[-1][1]) > float(drawn[0][1]) + 0.1
