"""`secfed federation` and `secfed node run`: keys stay where they are made, and refusals are told in a line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("nvflare")

from secfed import cli
from secfed.engines.flare import processes
from secfed.engines.flare.settings import CONTROLLER, EXECUTOR
from tests.secfed.run_folders import study_text

SITE = "hospital-2"


@dataclass
class Console:
    """The command line, as a shell would run it."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> tuple[int, str]:
        """Exit code, and all that was printed."""
        self.monkeypatch.setattr("sys.argv", ["secfed", *arguments])
        try:
            cli.main()
        except SystemExit as end:
            printed = self.capsys.readouterr()
            return int(end.code or 0), printed.out + printed.err
        raise AssertionError("a command ends the process")


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Console:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.toml").write_text(study_text())
    return Console(monkeypatch, capsys)


def provisioned(console: Console) -> str:
    """The fingerprint of an authority that was just founded."""
    code, printed = console(
        "federation", "provision", "study.toml", "--server", "localhost:8002", "--out", "f", "--json"
    )
    assert code == 0, printed
    return str(json.loads(printed)["fingerprint"])


def test_a_site_gets_its_kit_and_its_key_never_leaves_it(console: Console, tmp_path: Path) -> None:
    fingerprint = provisioned(console)
    assert console("federation", "request", SITE, "--federation", "f/federation.json", "--out", "own")[0] == 0
    request, key = tmp_path / "own" / f"{SITE}.request.zip", tmp_path / "own" / f"{SITE}.key"
    assert console("federation", "approve", str(request), "--federation", "f")[0] == 0
    signed = tmp_path / "f" / "signed" / f"{SITE}.signed.zip"
    arguments = ("federation", "kit", str(signed), "--request", "own", "--out", "kit", "--fingerprint", fingerprint)
    code, printed = console(*arguments)
    assert code == 0
    assert "secfed node run kit" in printed
    assert (tmp_path / "kit" / "startup" / "client.key").read_bytes() == key.read_bytes()
    secret = key.read_bytes().splitlines()[2]
    others = [path for path in (tmp_path / "f").rglob("*") if path.is_file()]
    assert not [path for path in [*others, request] if secret in path.read_bytes()]
    rules = json.loads((tmp_path / "kit" / "local" / "resources.json").read_text())
    assert rules["class_allow_list"] == [EXECUTOR]
    assert rules["class_list_enforcement_mode"] == "enforce"
    rules = json.loads((tmp_path / "f" / "server" / "local" / "resources.json").read_text())
    assert rules["class_allow_list"] == [CONTROLLER]


def test_a_kit_under_another_authoritys_fingerprint_is_not_made(console: Console, tmp_path: Path) -> None:
    fingerprint = provisioned(console)
    console("federation", "request", SITE, "--federation", "f/federation.json", "--out", "own")
    console("federation", "approve", f"own/{SITE}.request.zip", "--federation", "f")
    other = fingerprint[:-2] + ("00" if not fingerprint.endswith("00") else "01")
    arguments = ("--request", "own", "--out", "kit", "--fingerprint", other)
    code, printed = console("federation", "kit", f"f/signed/{SITE}.signed.zip", *arguments)
    assert code == 2
    assert "fingerprint" in printed.lower()
    assert not (tmp_path / "kit" / "startup" / "client.key").exists()


def test_a_site_outside_the_roster_gets_no_certificate(console: Console, tmp_path: Path) -> None:
    provisioned(console)
    code, printed = console("federation", "request", "stranger", "--federation", "f/federation.json", "--out", "own")
    assert (code, "stranger is not among the sites" in printed) == (2, True)
    profile = json.loads((tmp_path / "f" / "federation.json").read_text())
    profile["sites"].append("stranger")  # whatever its own copy says
    (tmp_path / "forged.json").write_text(json.dumps(profile))
    assert console("federation", "request", "stranger", "--federation", "forged.json", "--out", "own")[0] == 0
    code, printed = console("federation", "approve", "own/stranger.request.zip", "--federation", "f")
    assert code == 2
    assert not list((tmp_path / "f" / "signed").glob("stranger*"))


@pytest.mark.sweep
def test_a_request_is_signed_once(console: Console) -> None:
    provisioned(console)
    console("federation", "request", SITE, "--federation", "f/federation.json", "--out", "own")
    assert console("federation", "approve", f"own/{SITE}.request.zip", "--federation", "f")[0] == 0
    code, printed = console("federation", "approve", f"own/{SITE}.request.zip", "--federation", "f")
    assert (code, "already has a certificate" in printed) == (2, True)


def test_each_program_is_run_from_its_own_kit(console: Console, tmp_path: Path) -> None:
    ran: list[list[str]] = []
    console.monkeypatch.setattr(processes.os, "execve", lambda path, program, environment: ran.append(program))
    code, _ = console(
        "federation", "provision", "study.toml", "--server", "localhost:8002", "--out", "f", "--with-keys"
    )
    assert code == 0
    assert console("node", "init", "hospital-2", "--home", "home")[0] == 0
    assert console("node", "run", f"f/{SITE}", "--home", "home")[0] == 0
    assert ran[-1][3].endswith("client_train")
    assert f"uid={SITE}" in ran[-1]
    assert console("federation", "start", "f/server", "--aggregator", "aggregator")[0] == 0
    assert ran[-1][3].endswith("server_train")
    for arguments in (("node", "run", "f/server", "--home", "home"), ("federation", "start", f"f/{SITE}")):
        code, printed = console(*arguments)
        assert code == 2, printed
        assert "kit" in printed
    assert console("node", "run", f"f/{SITE}", "--home", "nowhere")[0] == 2
    assert len(ran) == 2


@pytest.mark.parametrize("server", ["localhost", "localhost:0", ":8002", "localhost:http", "localhost:70000"])
def test_a_server_is_a_host_and_a_port(console: Console, server: str) -> None:
    code, printed = console("federation", "provision", "study.toml", "--server", server, "--out", "f")
    assert (code, "Pass it as --server HOST:PORT" in printed) == (2, True)
