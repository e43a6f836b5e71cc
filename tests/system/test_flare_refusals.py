"""Who takes no part in a federation of real processes: strangers, changed studies, studies over a site's policy."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

pytest.importorskip("nvflare")

from dp.entries import Entry
from secfed.demo.flare import submit_when_connected
from secfed.engines.flare.jobs import write_job
from secfed.engines.flare.progress import read_log
from secfed.node.data_watch import data_digest
from secfed.node.home import Home
from secfed.node.sites import LEDGER_FILE
from secfed.study.approvals import StudyFile, sign_study
from tests.flare import Processes, federation, owners_log, wait_until_told
from tests.homes import approve_at

pytestmark = [pytest.mark.flare, pytest.mark.timeout(900)]
ROUNDS = 2
VISITOR, FORGER = "visiting-clinic", "forging-clinic"
NOBODY = "waiting for sites: 0 of 4 are there, 3 needed"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Server, hospitals and two strangers are connected; no job has been submitted."""
    folder = tmp_path_factory.mktemp("flare")
    strangers = (VISITOR, FORGER)
    with federation(folder, ROUNDS, studies=2, strangers=strangers, gathering_seconds=10.0) as processes:
        processes.start()
        processes.wait_for_sites()
        yield processes


def ledgers(homes: tuple[Home, ...]) -> list[tuple[Entry, ...]]:
    """What is in them; nothing where a home has none, which its node would have made."""
    found: list[tuple[Entry, ...]] = []
    for home in homes:
        if not (home.path / LEDGER_FILE).exists():
            found.append(())
            continue
        with home.open_ledger() as ledger:
            found.append(ledger.entries())
    return found


def kinds(processes: Processes) -> set[str]:
    """Of all that happened in the study's run."""
    return {event["event"] for event in read_log(processes.run)}


def changed(text: str, key: str, factor: float) -> str:
    """A study's text with another number behind this key."""

    def other(found: re.Match[str]) -> str:
        return f"{found[1]}{float(found[2]) * factor!r}"

    new, count = re.subn(rf"^({key} = )(.+)$", other, text, flags=re.MULTILINE)
    assert count == 1
    return new


def test_a_server_that_put_less_noise_into_an_approved_study_is_stopped_before_any_round(
    running: Processes, tmp_path: Path
) -> None:
    """Under the digest that was approved: the aggregator's own check ends the job, and nodes hear nothing of it."""
    before, path = ledgers(running.homes), running.aggregator.study_file(running.study.digest)
    honest = path.read_text()
    path.write_text(changed(honest, "noise_multiplier", 0.5))
    try:
        identity = running.submit(write_job(tmp_path, running.study))
        status = running.status(identity)
    finally:
        path.write_text(honest)
    assert "COMPLETED" not in status
    end = list(read_log(running.run))[-1]
    assert (end["event"], end["how"]) == ("end", "stopped")
    assert f"{path} is another study than its folder says" in end["text"]
    assert not kinds(running) & {"round-opened", "stage"}
    assert ledgers(running.homes) == before
    assert not any("took part" in owners_log(home) for home in running.homes)


@pytest.mark.parametrize("told", ["the changed study", "the approved study"])
def test_nobody_answers_for_a_study_that_the_server_changed_after_its_approval(
    running: Processes, tmp_path: Path, told: str
) -> None:
    """The server runs it under its own digest, whichever of the two its job names to the sites."""
    factor = 2.0 if told == "the changed study" else 3.0
    path = running.study_path.with_name(f"faster-{factor:.0f}.toml")
    path.write_text(changed(running.study_path.read_text(), "server_learning_rate", factor))
    faster, before = running.of(path), ledgers(running.homes)
    assert faster.study.digest != running.study.digest
    faster.aggregator.add(path)
    job = write_job(tmp_path, faster.study)
    if told == "the approved study":
        config = job / "study" / "config" / "config_fed_client.json"
        config.write_text(config.read_text().replace(faster.study.digest.hex(), running.study.digest.hex()))
    faster.submit(job)
    faster.until(lambda event: NOBODY in event.get("text", ""))
    for home in running.homes:
        if told == "the changed study":
            wait_until_told(home, f"no study {faster.study.digest.hex()[:16]} is approved at {home.name}")
        else:
            wait_until_told(home, "a request about a different study was dropped")
    faster.abort()
    assert not kinds(faster) & {"round-opened", "stage"}
    assert ledgers(running.homes) == before
    assert not any("took part" in owners_log(home) for home in running.homes)


def test_a_stranger_whom_a_job_names_is_no_part_of_the_study_which_goes_on_without_it(
    running: Processes, tmp_path: Path
) -> None:
    """Two strangers with certificates of this federation, and data and policy of which nothing is missing. The forger's
    owner has even signed the study: not on its roster."""
    visitor, forger = running.strangers
    file = StudyFile.read(running.study_path)
    approval, data = sign_study(forger.identity, FORGER, file, datetime.now(UTC)), forger.node.data[0]
    forger.keep(file, approval, data.name, data_digest(Path(data.file)))
    job = write_job(tmp_path, running.study)
    meta = json.loads((job / "meta.json").read_text())
    meta["deploy_map"]["study"] += [VISITOR, FORGER]
    (job / "meta.json").write_text(json.dumps(meta))
    identity = running.submit(job)
    wait_until_told(visitor, f"no study {running.study.digest.hex()[:16]} is approved at {VISITOR}")
    wait_until_told(forger, f"the key of this node, {FORGER}, is not on the roster of {running.study.name}")
    summary = running.finished()
    running.status(identity)
    for number, each in enumerate(summary["rounds"], start=1):
        assert (each["number"], sorted(each["survivors"])) == (number, sorted(running.names))
    assert len(summary["rounds"]) == ROUNDS
    assert {each["name"] for each in summary["hospitals"]} == set(running.names)
    for home in running.homes:  # whom the same job reaches, and who take part
        assert "took part" in owners_log(home)
    for home in running.strangers:
        assert (running.kits[home.name] / identity).is_dir(), "the job did not come to the stranger at all"
        assert "took part" not in owners_log(home)
        assert "the node is open" not in owners_log(home)
    assert ledgers(running.strangers) == [(), ()]


def test_a_node_refuses_a_study_over_its_policy_until_its_owner_allows_it_again(running: Processes) -> None:
    """First at all sites: no round opens. Then at one alone: the others go on without it. Then at none."""
    path = running.study_path.with_name("second.toml")
    path.write_text(running.study_path.read_text().replace('name = "icd-chapters"', 'name = "second-study"', 1))
    second = running.of(path)
    second.aggregator.add(path)
    for home in second.homes:
        approve_at(home, path)
    before = ledgers(second.homes)
    policies = [home.path / "policy.toml" for home in second.homes]
    allowing = [policy.read_text() for policy in policies]
    too_dear = re.sub(r"^(epsilon = .*)$", r"\1\nepsilon_per_study = 1.0", allowing[0], flags=re.MULTILINE)
    policies[0].write_text(too_dear)
    for policy, text in zip(policies[1:], allowing[1:], strict=True):
        policy.write_text(re.sub(r"^minimum = .*$", "minimum = 5", text, flags=re.MULTILINE))
    identity = submit_when_connected(second.operator, second.study, second.loopback)
    second.until(lambda event: NOBODY in event.get("text", ""))
    dear = second.homes[0]
    wait_until_told(dear, f"the study promises epsilon 8, but the policy of {dear.name} allows one study at most 1")
    for home in second.homes[1:]:
        wait_until_told(home, "policy demands a cohort larger than the roster of 4")
    assert not kinds(second) & {"round-opened", "stage"}
    assert ledgers(second.homes) == before

    for policy, text in zip(policies[1:], allowing[1:], strict=True):
        policy.write_text(text)
    second.until(lambda event: event["event"] == "round-closed" and event["round_number"] == 1)
    told = owners_log(dear)
    policies[0].write_text(allowing[0])
    summary = second.finished()
    second.status(identity)
    assert summary["rounds"][0]["survivors"] == [home.name for home in second.homes[1:]]
    states = {each["name"]: each["state_digest"] for each in summary["hospitals"]}
    assert set(states) == set(second.names), "the one that refused does not hand over"
    assert {states[home.name] for home in second.homes[1:]} == {summary["state_digest"]}
    assert "the node is open for the study" in owners_log(dear)[len(told) :]
    # And whom an honest job does not name hears nothing of it.
    for home in second.homes:
        assert (second.kits[home.name] / identity).is_dir()
    for home in second.strangers:
        assert not (second.kits[home.name] / identity).exists()
