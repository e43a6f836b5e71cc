"""Every attack is stopped on real nodes by a line of code, and succeeds on nodes without what stops it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import protocols
from audits import cli, table
from audits.adversaries import ATTACKS
from audits.adversaries.attack import Attack, Verdict, both_ways
from protocols import errors
from protocols.messages import FROM_AGGREGATOR
from secfed.errors import UserError

ROOT = Path(protocols.__file__).parents[1]
GOOD = Verdict("one", "to win", True, "protocols/client.py:1", "", True)
NOT_STOPPED = Verdict("two", "to <win>", False, None, "", True)
VACUOUS = Verdict("three", "to win", True, "protocols/client.py:1", "", False)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_real_nodes_stop_it_and_nodes_without_the_check_do_not(attack: Attack) -> None:
    verdict = both_ways(attack)
    assert verdict.stopped, "the attack reached its goal on real nodes, or nothing says what stopped it"
    assert verdict.succeeds_when_weakened, "the attack fails without the check, too: it proves nothing"
    assert verdict.reason
    found = re.fullmatch(r"((?:protocols|secfed)/[a-z_]+\.py):(\d+)", verdict.stopped_by or "")
    assert found, f"{verdict.stopped_by} is no line of the nodes' code"
    line = (ROOT / found[1]).read_text().splitlines()[int(found[2]) - 1]
    error = verdict.reason.split(":")[0]
    if hasattr(errors, error):
        assert f"raise {error}(" in line
    else:  # nobody refuses anything: the line is a rule that protects
        assert line.strip()
        assert "raise" not in line


def test_no_weakening_outlives_its_attack() -> None:
    for attack in ATTACKS:
        with attack.weakening():
            pass
    assert not any(attack.run().achieved for attack in ATTACKS[:4])


def test_attacks_have_names_and_goals_of_their_own() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)
    assert all(attack.name and attack.goal for attack in ATTACKS)


@pytest.mark.parametrize("how", ["malformed", "oversized"])
def test_every_message_that_a_node_takes_is_tried(how: str) -> None:
    tried = {attack.name.partition(": ")[2] for attack in ATTACKS if attack.name.startswith(f"{how} message: ")}
    assert tried == {kind.TYPE for kind in FROM_AGGREGATOR} | {"round-opening", "echo-request", "study-closing"}


def run_with(monkeypatch: pytest.MonkeyPatch, *verdicts: Verdict) -> Callable[..., tuple[int, str]]:
    """The command, with these verdicts in place of the real attacks."""
    known = {verdict.attack: verdict for verdict in verdicts}
    monkeypatch.setattr("audits.adversaries.ATTACKS", tuple(known))
    monkeypatch.setattr("audits.adversaries.attack.both_ways", known.__getitem__)

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli.app, ["protocol", *arguments])
        return result.exit_code, result.output

    return run


def test_the_command_ends_0_when_all_is_as_it_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    code, output = run_with(monkeypatch, GOOD)()
    assert code == 0
    assert re.search(r"one +protocols/client.py:1 +yes", output)


@pytest.mark.parametrize(("bad", "words"), [(NOT_STOPPED, "NOT STOPPED"), (VACUOUS, "proves nothing")])
def test_the_command_ends_1_when_an_attack_succeeds_or_proves_nothing(
    bad: Verdict, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, output = run_with(monkeypatch, GOOD, bad)()
    assert code == 1
    assert words in output


def test_the_json_output_is_one_object_with_an_entry_per_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    code, output = run_with(monkeypatch, GOOD, NOT_STOPPED)("--json")
    assert code == 1
    first, second = json.loads(output)["attacks"]
    assert first == {
        "attack": "one",
        "goal": "to win",
        "stopped": True,
        "stopped_by": "protocols/client.py:1",
        "succeeds_when_weakened": True,
    }
    assert (second["stopped"], second["stopped_by"]) == (False, None)


def test_the_page_shows_every_attack_and_escapes_what_it_shows(tmp_path: Path) -> None:
    table.write_html(tmp_path / "attacks.html", [GOOD, NOT_STOPPED, VACUOUS])
    page = (tmp_path / "attacks.html").read_text()
    assert page.count("<tr>") == 4
    assert "to &lt;win&gt;" in page
    assert "not stopped" in page


def test_a_page_that_cannot_be_written_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        table.write_html(tmp_path / "missing" / "attacks.html", [GOOD])


def test_the_command_group_is_found_and_its_help_loads_neither_torch_nor_an_attack() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from secfed.cli import app;"
        "output = CliRunner().invoke(app, ['audit', '--help']).output; assert 'protocol' in output, output;"
        "print([name for name in ('torch', 'audits.adversaries') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
