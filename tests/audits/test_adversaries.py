"""Every attack is stopped on real nodes, and succeeds on nodes without what is said to stop it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from typer.testing import CliRunner

import protocols
from audits import cli
from audits.adversaries import ATTACKS, table
from audits.adversaries.attack import Attack
from audits.adversaries.trials import NOBODY, Search, Verdict, examine
from audits.simulator.removal import is_refusal, without
from audits.simulator.world import broken_nodes
from protocols import errors
from protocols.messages import FROM_AGGREGATOR
from secfed.errors import UserError

ROOT = Path(protocols.__file__).parents[1]
LINE, OTHER = "protocols/client.py:1", "secfed/node/node.py:2"
ENOUGH = Search((LINE,), (LINE,), "")
IN_VAIN = Search(None, (LINE,), NOBODY)
ALONE = Verdict("one", "to win", True, LINE, "NotCanonical: so", ENOUGH, (), None)
SEVERAL = Verdict("two", "to win", True, LINE, "NotCanonical: so", Search((LINE, OTHER), (LINE, OTHER), ""), (), None)
BY_RULE = Verdict("three", "to win", True, None, "", IN_VAIN, ("a <rule>",), Search((OTHER,), (OTHER,), ""))
NOT_STOPPED = Verdict("four", "to <win>", False, None, "", Search((), (), ""), (), None)
VACUOUS = Verdict("five", "to win", True, LINE, "NotCanonical: so", IN_VAIN, (), None)
VACUOUS_RULE = Verdict("six", "to win", True, LINE, "NotCanonical: so", ENOUGH, ("a rule",), IN_VAIN)
IDLE_RULE = Verdict("seven", "to win", True, LINE, "NotCanonical: so", IN_VAIN, ("r",), Search((), (), ""), ("r",))


@pytest.mark.parametrize(
    "attack",
    [pytest.param(each, marks=[pytest.mark.sweep] if place % 3 else []) for place, each in enumerate(ATTACKS)],
    ids=lambda attack: attack.name,
)
def test_real_nodes_stop_it_and_nodes_without_what_stops_it_do_not(attack: Attack) -> None:
    verdict = examine(attack)
    assert verdict.stopped, "the attack reached its goal on real nodes"
    assert verdict.succeeds_without, f"the attack fails without what is said to stop it: {verdict}"
    assert (verdict.first_refusal is None) == (verdict.reason == "") == (verdict.sufficient_alone is None)
    assert verdict.by_lines.lines is not None or verdict.rules, "no set of lines is enough, and no rule is named"
    for search in (verdict.by_lines, verdict.beside_rules):
        for place in () if search is None else (*search.met, *(search.lines or ())):
            assert_line_raises(place)
    if verdict.first_refusal is not None:
        assert f"raise {verdict.reason.partition(':')[0]}(" in text_at(verdict.first_refusal)
        assert hasattr(errors, verdict.reason.partition(":")[0])
    for search, rules in ((verdict.by_lines, False), (verdict.beside_rules, True)):
        if search is not None and search.lines is not None and len(search.lines) > 1:
            for line in search.lines:
                others = [other for other in search.lines if other != line]
                assert not succeeds(attack, others, rules=rules), f"{line} is idle"


def succeeds(attack: Attack, lines: list[str], *, rules: bool) -> bool:
    with broken_nodes(), without(lines), ExitStack() as lacking:
        for weakening in attack.weakenings() if rules else ():
            lacking.enter_context(weakening)
        return attack.run().achieved


def text_at(place: str) -> str:
    name, line = place.split(":")
    return (ROOT / name).read_text().splitlines()[int(line) - 1].strip()


def assert_line_raises(place: str) -> None:
    assert re.fullmatch(r"(?:protocols|secfed|crypto)/[a-z_/]+\.py:\d+", place), (
        f"{place} is no line of the nodes' code"
    )
    assert text_at(place).startswith("raise ")
    assert is_refusal(place)


def test_nothing_is_left_of_a_trial() -> None:
    for attack in ATTACKS:
        for weakening in attack.weakenings():
            with weakening:
                pass
    examine(ATTACKS[0])
    assert not any(attack.run().achieved for attack in ATTACKS[:4])


def test_attacks_have_names_and_goals_of_their_own() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)
    assert all(attack.name and attack.goal for attack in ATTACKS)
    assert all(len(attack.name) < table.NAME_WIDTH for attack in ATTACKS), "names and places would run together"


@pytest.mark.parametrize("how", ["malformed", "oversized"])
def test_every_message_that_a_node_takes_is_tried(how: str) -> None:
    tried = {attack.name.partition(": ")[2] for attack in ATTACKS if attack.name.startswith(f"{how} message: ")}
    across = {"round-opening", "echo-request", "study-closing", "attendance-request", "handover-request"}
    assert tried == {kind.TYPE for kind in FROM_AGGREGATOR} | across


def run_with(monkeypatch: pytest.MonkeyPatch, *verdicts: Verdict) -> Callable[..., tuple[int, str, str]]:
    """The command, with these verdicts in place of the real attacks."""
    known = {type("Known", (), {"name": verdict.attack}): verdict for verdict in verdicts}
    monkeypatch.setattr("audits.adversaries.ATTACKS", tuple(known))
    monkeypatch.setattr("audits.adversaries.trials.examine", known.__getitem__)

    def run(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(cli.app, ["protocol", *arguments])
        return result.exit_code, result.stdout, result.stderr

    return run


def test_the_command_ends_0_when_all_is_as_it_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    code, output, _ = run_with(monkeypatch, ALONE, SEVERAL, BY_RULE)()
    assert code == 0
    assert re.search(rf"one +{LINE} +yes +this line\n", output)
    assert re.search(rf"two +{LINE} +no +{LINE}, {OTHER}\n", output)
    assert re.search(rf"three +none +- +a rule, {OTHER}\n    the rule: a <rule>\n", output)
    assert "3 attacks, 3 of them stopped by real nodes: 1 by one line alone, 1 by several lines" in output
    assert "1 by a rule although every refusal on the way is taken out; 3 succeed" in output


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (NOT_STOPPED, "NOT STOPPED"),
        (VACUOUS, "proves nothing"),
        (VACUOUS_RULE, "or the rule: a rule (FAILS WITHOUT IT, TOO)"),
        (IDLE_RULE, "the rule: r (NOT NEEDED)"),
    ],
)
def test_the_command_ends_1_when_an_attack_succeeds_or_proves_nothing(
    bad: Verdict, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, output, _ = run_with(monkeypatch, ALONE, bad)()
    assert code == 1
    assert words in output
    assert "2 succeed" not in output


def test_the_json_output_is_one_object_with_an_entry_per_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    code, output, progress = run_with(monkeypatch, ALONE, BY_RULE, NOT_STOPPED)("--json")
    assert code == 1
    assert progress.splitlines() == ["1 of 3: one", "2 of 3: three", "3 of 3: four"]
    alone, by_rule, not_stopped = json.loads(output)["attacks"]
    assert alone == {
        "attack": "one",
        "goal": "to win",
        "stopped": True,
        "first_refusal": LINE,
        "reason": "NotCanonical: so",
        "sufficient_alone": True,
        "without_lines": {"succeeds": True, "lines": [LINE], "taken_out": [LINE], "end": ""},
        "rules": [],
        "without_rules": None,
        "idle_rules": [],
        "succeeds_without": True,
    }
    assert (by_rule["first_refusal"], by_rule["sufficient_alone"], by_rule["rules"]) == (None, None, ["a <rule>"])
    assert by_rule["without_lines"] == {"succeeds": False, "lines": None, "taken_out": [LINE], "end": NOBODY}
    assert by_rule["without_rules"]["lines"] == [OTHER]
    assert not not_stopped["stopped"]


def test_the_page_shows_every_attack_and_escapes_what_it_shows(tmp_path: Path) -> None:
    table.write_html(tmp_path / "attacks.html", [ALONE, BY_RULE, NOT_STOPPED, VACUOUS])
    page = (tmp_path / "attacks.html").read_text()
    assert page.count("<tr>") == 5
    assert "to &lt;win&gt;" in page
    assert "The rule: a &lt;rule&gt;." in page
    assert f"Refusals removed in vain: {LINE}. Then {NOBODY}." in page
    assert "not stopped" in page


def test_a_page_that_cannot_be_written_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        table.write_html(tmp_path / "missing" / "attacks.html", [ALONE])


def test_the_command_group_is_found_and_its_help_loads_neither_torch_nor_an_attack() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from secfed.cli import app;"
        "output = CliRunner().invoke(app, ['audit', '--help']).output; assert 'protocol' in output, output;"
        "print([name for name in ('torch', 'audits.adversaries') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
