"""Who has made several mistakes in a study or a policy is told all of them at once, each with its line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from secfed.errors import Problems, UserError
from secfed.node.policy import load_policy_file
from secfed.study.manifest import load_study
from secfed.study.problems import lines_of
from tests.command_line import exit_code
from tests.secfed.run_folders import study_text

POLICY = """\
[cohort]
minimum = 1

[budget]
population = "all"
patients = 2000
epsilon = "much"
delta = 1e-5
epsilon_for_all = 3

[allow]
base_model = ["sha256:0"]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "study.toml").write_text(study_text())
    return tmp_path / "study.toml"


def line_of(path: Path, start: str) -> int:
    return 1 + next(number for number, line in enumerate(path.read_text().splitlines()) if line.startswith(start))


def edit(path: Path, pattern: str, new: str) -> None:
    text, count = re.subn(pattern, new, path.read_text(), count=1, flags=re.MULTILINE)
    assert count == 1
    path.write_text(text)


def test_a_study_with_several_mistakes_is_told_all_of_them_each_with_its_line(path: Path) -> None:
    edit(path, r"^clip = .*", "clip = 0\nsigma = 1.0")
    edit(path, r"^colluders = .*", "colluders = -1")
    edit(path, r'^identity = "..', 'identity = "xy')
    with pytest.raises(Problems) as refused:
        load_study(path)
    assert len(refused.value.problems) == 4
    for place, key in (("privacy.clip", "clip"), ("privacy.sigma", "sigma"), ("cohort.colluders", "colluders")):
        assert any(f"line {line_of(path, key)}, {place}: " in problem for problem in refused.value.problems)
    assert any(f"line {line_of(path, 'identity')}, roster.0.identity" in each for each in refused.value.problems)
    assert "\n" not in str(refused.value)


def test_switching_to_the_other_mode_takes_one_refusal_and_not_one_a_key(path: Path) -> None:
    local = '[privacy]\nmode = "local"\nunit = "patient"\nrecords_per_patient = 1\ngrid = 1024'
    edit(path, r'^\[privacy\]\nmode = "local"', local)
    edit(path, r"^local = .*", 'strategy = "fedopt-adam"\nserver_learning_rate = 0.1\nmu = 0.1')
    with pytest.raises(Problems) as refused:
        load_study(path)
    said = "; ".join(refused.value.problems)
    assert "unit, records_per_patient and grid have no effect in local mode; leave them out" in said
    assert "mu has no effect with strategy fedopt-adam; leave it out" in said
    assert "add [algorithm.local]" in said  # which comes to light only without the keys


def test_figures_that_do_not_fit_together_are_told_together(path: Path) -> None:
    edit(path, r"^delta = .*", "delta = 0.01")
    edit(path, r"^tolerated_dropouts = .*", "tolerated_dropouts = 4")
    with pytest.raises(UserError, match=r"above 1/\(10 N\).*dropouts cannot be tolerated"):
        load_study(path)


def test_a_policy_with_several_mistakes_is_told_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(POLICY)
    with pytest.raises(Problems) as refused:
        load_policy_file(tmp_path / "policy.toml", "harbour-clinic")
    assert [each.partition(": ")[0] for each in refused.value.problems] == [
        "line 2, cohort.minimum",
        "line 7, budget.epsilon",
        "line 9, budget.epsilon_for_all",
        "line 11, allow.base_models",
        "line 12, allow.base_model",
    ]


def test_the_command_line_lists_them_and_machines_get_a_list(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(path, r"^clip = .*", "clip = 0\nsigma = 1.0")
    assert exit_code(monkeypatch, "study", "show", path) == 2
    first, *problems, last = capsys.readouterr().err.splitlines()
    assert first == f"secfed: {path}: 2 problems"
    assert len(problems) == 2
    assert all(problem.startswith("  line ") for problem in problems)
    assert last == "Mend it in that file; nothing was started."
    assert exit_code(monkeypatch, "study", "show", path, "--json") == 2
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 2


def test_places_are_found_in_tables_lists_of_tables_and_dotted_names() -> None:
    text = b'a = 1\n[b]\nc.d = 2\n# e = 3\n[[r]]\nn = "x"\n[[r]]\nn = "y"\n[b.f]\ng = 4\n'
    lines = lines_of(text)
    assert lines["a",] == 1
    assert lines["b", "c", "d"] == 3
    assert lines["r", 1] == 7
    assert lines["r", 1, "n"] == 8
    assert lines["b", "f", "g"] == 10
    assert ("b", "e") not in lines
