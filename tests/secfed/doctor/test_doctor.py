"""The doctor finds each planted fault, names it, and says how to mend it; and finds none where there is none."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from crypto.identity import Identity
from dp.ledger import Ledger
from secfed.doctor.checkup import examine_node
from secfed.doctor.machine import Machine
from secfed.engines.flare.tls import Server
from secfed.findings import Finding
from secfed.node.home import Home
from secfed.node.status import node_status
from secfed.node.store import NodeStore
from secfed.study.signing import entry_signer
from tests.command_line import exit_code
from tests.homes import Hospitals
from tests.secfed.doctor.findings import failed, states
from tests.tls import DAY, Authority, serving


@pytest.fixture
def home(hospitals: Hospitals, tmp_path: Path) -> Home:
    """A home with an approved study, and data of its own."""
    shutil.copytree(hospitals.homes[0].path, tmp_path / "home")
    data = tmp_path / "letters.jsonl"
    shutil.copy(hospitals.homes[0].node.data[0].file, data)
    file = tmp_path / "home" / "node.toml"
    file.write_text(file.read_text().replace(hospitals.homes[0].node.data[0].file, str(data)))
    return Home.open(tmp_path / "home")


def test_a_healthy_node_has_no_finding_that_failed(home: Home) -> None:
    before = {path.name: path.read_bytes() for path in home.path.iterdir() if path.is_file()}
    findings = examine_node(home.path, None)
    assert states(findings) == set()
    assert [each.check for each in findings if each.state == "warning"] == ["pace"]
    assert {each.check.split()[0] for each in findings if each.state == "ok"} == {
        *("python", "libraries", "disk", "home", "identity", "node.toml", "policy", "data", "ledger", "store", "study"),
        *("base", "budget"),
    }
    assert {path.name: path.read_bytes() for path in home.path.iterdir() if path.is_file()} == before


def open_key(home: Home) -> None:
    (home.path / "identity.key").chmod(0o644)


def no_key(home: Home) -> None:
    (home.path / "identity.key").unlink()


def open_home(home: Home) -> None:
    home.path.chmod(0o755)


def broken_policy(home: Home) -> None:
    (home.path / "policy.toml").write_text("[cohort]\nminimum = 1\n")


def broken_node_file(home: Home) -> None:
    (home.path / "node.toml").write_text("name = 3\n")


def no_data(home: Home) -> None:
    Path(home.node.data[0].file).unlink()


def torn_data(home: Home) -> None:
    with Path(home.node.data[0].file).open("a") as file:
        file.write('{"patient": "p", "text"')


def fewer_patients(home: Home) -> None:
    path = Path(home.node.data[0].file)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:20]))


def no_model(home: Home) -> None:
    shutil.rmtree(home.path / "models" / "model")


def another_model(home: Home) -> None:
    path = home.path / "models" / "model" / "config.json"
    path.write_text(path.read_text() + "\n")


def changed_study(home: Home) -> None:
    path = home.study_folder(home.digests()[0]) / "study.toml"
    path.write_text(path.read_text() + "# and more\n")


def changed_ledger(home: Home) -> None:
    with sqlite3.connect(home.path / "ledger.sqlite") as database:
        database.execute("DROP TRIGGER entries_never_change")
        database.execute("UPDATE entries SET body = replace(body, '\"8.00\"', '\"7.00\"') WHERE sequence = 2")
    database.close()


def another_signature(home: Home) -> None:
    (home.path / "ledger.sqlite").unlink()
    stranger = Identity(bytes(32))
    with Ledger(home.path / "ledger.sqlite", entry_signer(stranger)) as ledger:
        ledger.grant(home.policy().budget[0].grant)


def ledger_of_other_bytes(home: Home) -> None:
    (home.path / "ledger.sqlite").write_bytes(b"not a database" * 100)


def ledger_of_another_version(home: Home) -> None:
    with sqlite3.connect(home.path / "ledger.sqlite") as database:
        database.execute("PRAGMA user_version = 1")
    database.close()


def less_reserved(home: Home) -> None:
    """As by an accountant that found less: the study would spend more than was set aside."""
    study = home.stored(home.digests()[0]).study
    path = home.path / "ledger.sqlite"
    path.unlink()
    with Ledger(path, entry_signer(home.identity)) as ledger:
        grant = home.policy().budget[0].grant
        ledger.grant(grant)
        ledger.reserve(grant.population, study.digest, "7.9", study.privacy.delta, study.algorithm.rounds)


def no_ledger(home: Home) -> None:
    (home.path / "ledger.sqlite").unlink()


def store_of_other_bytes(home: Home) -> None:
    (home.path / "node.sqlite").write_bytes(b"not a database" * 100)


def old_store(home: Home) -> None:
    with home.open_ledger() as ledger, NodeStore(home.path / "node.sqlite") as store:
        store.join(home.digests()[0], 1, bytes(32))
        ledger.commit(home.digests()[0], 1)
        ledger.commit(home.digests()[0], 2)


def no_store(home: Home) -> None:
    with home.open_ledger() as ledger:
        ledger.commit(home.digests()[0], 1)


def spent_budget(home: Home) -> None:
    with home.open_ledger() as ledger, NodeStore(home.path / "node.sqlite") as store:
        for number in (1, 2):
            store.join(home.digests()[0], number, bytes(32))
            ledger.commit(home.digests()[0], number)


def other_budget(home: Home) -> None:
    path = home.path / "policy.toml"
    path.write_text(path.read_text().replace("epsilon = 8.0", "epsilon = 9.0"))


def narrowed_policy(home: Home) -> None:
    path = home.path / "policy.toml"
    path.write_text(path.read_text().replace("[allow]", "[allow]\nmembers = []"))


def withdrawn_study(home: Home) -> None:
    with home.open_ledger() as ledger:
        ledger.withdraw(home.digests()[0])


def entry_from_tomorrow(home: Home) -> None:
    with home.open_ledger() as ledger:
        ledger._clock = lambda: time.time() + 86_400
        ledger.withdraw(home.digests()[0])


FAULTS: list[tuple[Callable[[Home], None], str, str, str]] = [
    (open_key, "identity key", "mode 0644", "chmod 600"),
    (no_key, "identity key", "cannot be read", "made once"),
    (open_home, "home folder", "mode 0755", "chmod 700"),
    (broken_policy, "policy", "cohort.minimum", "Mend it in that file"),
    (broken_node_file, "node.toml", "name", "Mend it in that file"),
    (no_data, "data letters", "cannot be read", "Check the path"),
    (torn_data, "data letters", "is not JSON", "Write one JSON object a line"),
    (fewer_patients, "study", "has changed since the study was approved", "secfed node data accept letters"),
    (no_model, "base of icd-chapters", "none of 0 base models", "copy its folder into"),
    (another_model, "base of icd-chapters", "none of 1 base models", "copy its folder into"),
    (changed_study, "study", "are not what was approved here", "approve the study again"),
    (changed_ledger, "ledger", "entry 2 of", "restore"),
    (another_signature, "ledger", "not signed by this node", "restore"),
    (ledger_of_other_bytes, "ledger", "is not a ledger", "restore"),
    (ledger_of_another_version, "ledger", "of format 1", "start a new ledger"),
    (less_reserved, "study", "is reserved for this study, but this version's accountant", "Continue with the version"),
    (no_ledger, "ledger", "is missing", "newest copy"),
    (store_of_other_bytes, "store", "is damaged or is not a node's store", "secfed node restored"),
    (old_store, "store", "older than the ledger", "secfed node restored"),
    (no_store, "store", "is missing, although rounds were committed", "secfed node restored"),
    (spent_budget, "budget", "is spent, and every study that it paid for is over", "No further study"),
    (other_budget, "study", "and is granted once", "restore the granted values"),
    (narrowed_policy, "study", "on a roster", "allow.members"),
    (withdrawn_study, "study", "or it was withdrawn", "cannot come back"),
    (entry_from_tomorrow, "clock", "the ledger's last entry was written here at", "NTP"),
]


@pytest.mark.parametrize(("plant", "check", "text", "fix"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_fault_is_found_with_its_fix(
    home: Home, plant: Callable[[Home], None], check: str, text: str, fix: str
) -> None:
    plant(home)
    found = [each for each in failed(examine_node(home.path, None)) if each.check.startswith(check)]
    assert any(text in each.text and fix in each.fix for each in found), found


def test_a_study_that_was_closed_is_called_so_and_its_budget_is_spent(home: Home) -> None:
    (digest,) = home.digests()
    with home.open_ledger() as ledger:
        ledger.commit(digest, 1)
        ledger.close_study(digest, 0, bytes(32))
    (study,) = node_status(home)["studies"]
    assert (study["state"], study["committed"]) == ("closed", 1)


def test_there_is_no_node_where_there_is_no_folder(tmp_path: Path) -> None:
    found = failed(examine_node(tmp_path / "nothing", None))
    assert {"home folder", "identity key", "node.toml", "policy"} <= {each.check for each in found}


def without_torch(name: str) -> str:
    if name == "torch":
        raise PackageNotFoundError(name)
    return version(name)


MACHINES: list[tuple[str, Machine, str, str]] = [
    ("python", Machine(python="3.10.4"), "Python 3.10.4, but secfed needs >=3.11", "Reinstall secfed"),
    (
        "libraries",
        Machine(version_of=lambda name: "4.57.1" if name == "transformers" else version(name)),
        "transformers>=5.0 (there is 4.57.1)",
        "pip install 'transformers>=5.0'",
    ),
    ("libraries", Machine(version_of=without_torch), "torch>=2.6 (there is none)", "pip install 'torch>=2.6'"),
    ("disk", Machine(free_bytes=lambda path: 100 << 20), "only 0.1 GiB free", "Free some space"),
    ("clock", Machine(now=lambda: datetime.now(UTC) - DAY), "the clock is behind now, or was ahead then", "NTP"),
]


@pytest.mark.parametrize(("check", "machine", "text", "fix"), MACHINES, ids=lambda value: "")
def test_a_machine_that_does_not_fit_is_found_with_its_fix(
    home: Home, check: str, machine: Machine, text: str, fix: str
) -> None:
    (found,) = failed(examine_node(home.path, None, machine))
    assert found.check == check
    assert text in found.text
    assert fix in found.fix


def test_a_clock_that_nothing_can_be_compared_with_is_said_not_to_be_checked(home: Home) -> None:
    (clock,) = [each for each in examine_node(home.path, None) if each.check == "clock"]
    assert clock.state == "not checked"
    assert "no other clock to compare with; it is not earlier than the" in clock.text
    assert clock.fix


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path / "ca")


def connect(home: Home, server: Server) -> dict[str, Finding]:
    """What the doctor says of server and clock."""
    findings = examine_node(home.path, server)
    failed(findings)
    return {each.check: each for each in findings if each.check in ("server", "clock")}


@pytest.mark.parametrize("minutes", [0, 5])
def test_a_server_with_the_right_certificate_is_well_and_its_clock_is_compared(
    home: Home, authority: Authority, minutes: int
) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=minutes), usegmt=True)
    answer = f"HTTP/1.1 404 Not Found\r\nDate: {date}\r\n\r\n".encode()
    with serving(authority.issue("127.0.0.1"), answer=answer) as port:
        found = connect(home, Server("127.0.0.1", port, authority.path))
    assert found["server"].state == "ok"
    assert found["clock"].state == ("failed" if minutes else "ok")
    assert ("s apart" in found["clock"].text) == bool(minutes)


def test_a_server_that_does_not_say_the_time_leaves_the_clock_unchecked(home: Home, authority: Authority) -> None:
    with serving(authority.issue("127.0.0.1"), answer=b"\0" * 9) as port:
        found = connect(home, Server("127.0.0.1", port, authority.path))
    assert (found["server"].state, found["clock"].state) == ("ok", "not checked")


def test_a_server_that_wants_a_certificate_gets_it(home: Home, authority: Authority) -> None:
    certificate, key = authority.issue("node")
    with serving(authority.issue("127.0.0.1"), client_ca=authority.path, answer=b"\0") as port:
        server = Server("127.0.0.1", port, authority.path)
        refused = connect(home, server)["server"]
        assert refused.state == "failed"
        assert "breaks TLS off" in refused.text
        assert "--cert and --key" in refused.fix
        assert connect(home, replace(server, certificate=certificate, key=key))["server"].state == "ok"
        key.chmod(0o644)
        found = connect(home, replace(server, certificate=certificate, key=key))["server"]
        assert "mode 0644" in found.text
        assert "chmod 600" in found.fix


def test_a_server_that_closes_at_once_is_not_taken_for_one_that_is_well(home: Home, authority: Authority) -> None:
    with serving(authority.issue("127.0.0.1")) as port:
        found = connect(home, Server("127.0.0.1", port, authority.path))["server"]
    assert found.state == "failed"
    assert "closes the connection after the TLS handshake" in found.text


def other_authority(authority: Authority) -> Authority:
    return Authority.make(authority.folder / "other")


@pytest.mark.parametrize(
    ("name", "starts", "ends", "text", "fix"),
    [
        ("127.0.0.1", -9, -2, "expired", "renewed"),
        ("127.0.0.1", 2, 9, "not yet valid", "clock"),
        ("elsewhere.example", -1, 9, "mismatch", "the name in the certificate"),
    ],
)
def test_a_certificate_that_does_not_hold_is_refused(
    home: Home, authority: Authority, name: str, starts: int, ends: int, text: str, fix: str
) -> None:
    now = datetime.now(UTC)
    with serving(authority.issue(name, now + starts * DAY, now + ends * DAY)) as port:
        found = connect(home, Server("127.0.0.1", port, authority.path))["server"]
    assert found.state == "failed"
    assert text in found.text.lower()
    assert fix in found.fix


def test_a_server_of_another_authority_is_refused(home: Home, authority: Authority) -> None:
    with serving(other_authority(authority).issue("127.0.0.1")) as port:
        found = connect(home, Server("127.0.0.1", port, authority.path))["server"]
    assert found.state == "failed"
    assert "someone else answers" in found.fix


def test_a_server_that_is_not_there_is_named(home: Home, authority: Authority) -> None:
    with serving(authority.issue("127.0.0.1")) as port:
        pass
    found = connect(home, Server("127.0.0.1", port, authority.path))["server"]
    assert f"cannot connect to 127.0.0.1:{port}" in found.text
    assert "firewall" in found.fix


def test_a_ca_that_is_none_is_named(home: Home, authority: Authority, tmp_path: Path) -> None:
    for path in (tmp_path / "missing.pem", home.path / "policy.toml"):
        found = connect(home, Server("127.0.0.1", 1, path))["server"]
        assert "contains no CA certificate" in found.text
        assert "--ca" in found.fix


def test_the_command_ends_with_0_where_all_is_well_and_with_1_where_something_is_not(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(monkeypatch, "doctor", "--home", str(home.path)) == 0
    assert "0 of" in capsys.readouterr().out
    open_key(home)
    assert exit_code(monkeypatch, "doctor", "--home", str(home.path)) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILED")]
    assert len(lines) == 1
    assert f"Run `chmod 600 {home.path / 'identity.key'}`" in lines[0]
    assert exit_code(monkeypatch, "doctor", "--home", str(home.path), "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert not told["ok"]
    assert [each["check"] for each in told["findings"] if each["state"] == "failed"] == ["identity key"]


@pytest.mark.parametrize(
    "arguments",
    [["--server", "host:1"], ["--server", "host:1", "--ca", "a", "--cert", "b"], ["--home", "a", "--aggregator", "b"]],
)
def test_options_that_do_not_fit_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert exit_code(monkeypatch, "doctor", *arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
