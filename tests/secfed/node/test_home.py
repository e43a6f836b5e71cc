"""A node runs what its owner approved, as it was approved, and nothing else; whatever happens to its process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from crypto.identity import Identity
from dp.errors import GrantDiffers, LedgerCorrupt
from dp.ledger import Ledger
from secfed.aggregator.coordinator import Coordinator
from secfed.engines.embedded.channel import EmbeddedChannel, Simulation
from secfed.errors import UserError
from secfed.models.training import load_study_model
from secfed.node.approve import approve, earlier_approval, examine
from secfed.node.home import Home
from secfed.study.approvals import StudyFile, gather, read_approval, sign_study, study_file_digest
from secfed.study.base import find_base_among
from secfed.study.signing import APPROVAL_LABEL
from tests.homes import Hospitals, approve_at, approved_at, make_hospitals


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Hospitals:
    return make_hospitals(tmp_path_factory.mktemp("hospitals"), base)


@pytest.fixture
def study(pristine: Hospitals) -> Path:
    return pristine.study_path


@pytest.fixture
def home(pristine: Hospitals, tmp_path: Path) -> Home:
    """A copy of the first hospital's home, for one test."""
    shutil.copytree(pristine.homes[0].path, tmp_path / "home")
    return Home.open(tmp_path / "home")


@pytest.fixture
def approved(home: Home, study: Path) -> Home:
    approve_at(home, study)
    return home


def digest_of(study: Path) -> bytes:
    return StudyFile.read(study).study.digest


def kinds(home: Home) -> list[str]:
    with home.open_ledger() as ledger:
        return [entry.kind for entry in ledger.entries()]


def test_a_home_is_opened_without_torch(home: Home) -> None:
    code = (
        "import sys; from pathlib import Path; from secfed.node.home import Home\n"
        "import secfed.node.approve, secfed.node.enrol\n"
        f"Home.open(Path({str(home.path)!r}))\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o770])
def test_a_home_that_others_can_use_is_refused_with_the_command_to_run(home: Home, mode: int) -> None:
    home.path.chmod(mode)
    with pytest.raises(UserError, match=f"chmod 700 {home.path}"):
        Home.open(home.path)


@pytest.mark.parametrize("name", ["identity.key", "policy.toml", "node.toml"])
def test_a_home_without_one_of_its_files_is_refused(home: Home, name: str) -> None:
    (home.path / name).unlink()
    with pytest.raises(UserError, match=name.replace("identity.key", "identity")):
        Home.open(home.path)


def test_what_was_approved_is_stored_as_it_was_read_and_signed_as_a_node_signs(approved: Home, study: Path) -> None:
    digest = digest_of(study)
    assert approved_at(approved, digest) == StudyFile.read(study).study
    assert (approved.study_folder(digest) / "study.toml").read_bytes() == study.read_bytes()
    signature = approved.approval(digest)
    file = study_file_digest(study.read_bytes())
    assert approved.identity.public.verifies(signature, APPROVAL_LABEL, digest, file)
    assert kinds(approved) == ["grant", "reserve"]


def test_a_study_that_was_not_approved_is_not_run_and_reserves_nothing(home: Home, study: Path) -> None:
    assert approved_at(home, digest_of(study)) is None
    with pytest.raises(UserError, match=r"no study .* is approved at harbour-clinic"), home.open_node(digest_of(study)):
        pass
    assert not (home.path / "ledger.sqlite").exists()


def another_value(folder: Path) -> None:
    path = folder / "study.toml"
    path.write_text(path.read_text().replace("rounds = 2", "rounds = 3"))


def another_comment(folder: Path) -> None:
    path = folder / "study.toml"
    path.write_text(path.read_text() + "# only a demonstration\n")


def another_signature(folder: Path) -> None:
    path = folder / "approval.json"
    approval = json.loads(path.read_text())
    path.write_text(json.dumps({**approval, "signature": "0" * 128}))


def a_strangers_approval(folder: Path) -> None:
    file = StudyFile.read(folder / "study.toml")
    stranger = sign_study(Identity(bytes(32)), "stranger", file, datetime.now(UTC))
    (folder / "approval.json").write_text(stranger.model_dump_json())


def no_approval(folder: Path) -> None:
    (folder / "approval.json").unlink()


@pytest.mark.parametrize(
    "change", [another_value, another_comment, another_signature, a_strangers_approval, no_approval]
)
def test_what_was_changed_in_the_store_is_no_longer_approved(
    approved: Home, study: Path, change: Callable[[Path], None]
) -> None:
    digest = digest_of(study)
    change(approved.study_folder(digest))
    assert approved_at(approved, digest) is None
    with pytest.raises(UserError), approved.open_node(digest):
        pass
    with pytest.raises(UserError):
        approved.approval(digest)


def test_an_approved_study_under_another_digest_is_not_approved(approved: Home, study: Path) -> None:
    digest = digest_of(study)
    other = bytes(32)
    shutil.copytree(approved.study_folder(digest), approved.study_folder(other))
    assert approved_at(approved, other) is None


def test_the_policy_is_read_again_when_the_node_is_opened(approved: Home, study: Path) -> None:
    path = approved.path / "policy.toml"
    path.write_text(path.read_text().replace("[allow]", "[allow]\ntasks = []"))
    with pytest.raises(UserError, match="does not allow this study's task"), approved.open_node(digest_of(study)):
        pass


def test_a_budget_that_was_changed_after_it_was_granted_is_refused(approved: Home, study: Path) -> None:
    path = approved.path / "policy.toml"
    path.write_text(path.read_text().replace("epsilon = 8.0", "epsilon = 7.0"))
    with pytest.raises(GrantDiffers), approved.open_node(digest_of(study)):
        pass


def test_data_whose_patients_are_told_by_another_column_is_refused(home: Home, study: Path) -> None:
    path = home.path / "node.toml"
    path.write_text(path.read_text().replace('patient_column = "patient"', 'patient_column = "person"'))
    with pytest.raises(UserError, match="identifies them by person"):
        examine(Home.open(home.path), study, None)


def test_another_base_model_is_refused_and_nothing_is_reserved(home: Home, study: Path) -> None:
    weights = home.path / "models" / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(UserError, match="none of 1 base models"):
        examine(home, study, None)
    assert not (home.path / "ledger.sqlite").exists()


def test_a_base_model_is_found_whatever_its_folder_is_called(approved: Home, study: Path) -> None:
    models = approved.path / "models"
    (models / "owner").mkdir()
    (models / "model").rename(models / "owner" / "minilm")
    assert find_base_among(StudyFile.read(study).study, models) == models / "owner" / "minilm"


def test_a_key_outside_the_roster_cannot_approve(home: Home, study: Path) -> None:
    (home.path / "identity.key").write_text("ab" * 32 + "\n")
    with pytest.raises(UserError, match="not on the roster"):
        examine(Home.open(home.path), study, None)


def test_a_ledger_of_another_key_is_not_gone_on_with(approved: Home, study: Path, pristine: Hospitals) -> None:
    digest = digest_of(study)
    other = pristine.homes[1]
    path = approved.path / "ledger.sqlite"
    path.unlink()
    with Ledger(path, lambda entry: other.identity.sign("ledger entry", entry)) as ledger:
        ledger.grant(approved.policy().budget[0].grant)
    with pytest.raises(LedgerCorrupt, match="not signed by this node"), approved.open_node(digest):
        pass


@pytest.mark.parametrize("left", [None, b""])
def test_a_ledger_that_is_gone_is_not_made_anew_with_its_whole_budget(approved: Home, left: bytes | None) -> None:
    path = approved.path / "ledger.sqlite"
    path.unlink()
    if left is not None:
        path.write_bytes(left)
    with pytest.raises(UserError, match="Restore the newest copy"):
        approved.open_ledger()
    assert (path.read_bytes() if path.exists() else None) == left


def test_a_copy_of_a_ledger_without_what_sqlite_kept_beside_it_is_not_taken_for_one_that_has_spent_nothing(
    approved: Home,
) -> None:
    """Entries are in the log beside the file until SQLite moves them over: whoever copies the file alone has none."""
    path = approved.path / "ledger.sqlite"
    path.unlink()
    Ledger(path, lambda entry: b"").close()
    assert path.stat().st_size > 0
    with pytest.raises(UserError, match="Restore the newest copy"), approved.open_node(approved.digests()[0]):
        pass
    assert not Ledger(path, lambda entry: b"").entries()


def test_a_crash_between_reserving_and_storing_is_mended_by_approving_again(
    home: Home, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(Home, "keep", crash)
        with pytest.raises(KeyboardInterrupt):
            approve_at(home, study)
    assert kinds(home) == ["grant", "reserve"]
    assert approved_at(home, digest_of(study)) is None
    approve_at(home, study)
    assert approved_at(home, digest_of(study)) is not None
    assert kinds(home) == ["grant", "reserve"]


def test_a_study_is_approved_once_and_with_one_text(approved: Home, study: Path, tmp_path: Path) -> None:
    kept = earlier_approval(approved, study)
    assert kept is not None
    assert kept.study == StudyFile.read(study).study
    other = tmp_path / "other.toml"
    other.write_text(study.read_text() + "# other words\n")
    with pytest.raises(UserError, match="the same values in a different file text"):
        earlier_approval(approved, other)


def test_a_second_study_that_the_budget_does_not_pay_for_is_refused(
    approved: Home, study: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.toml"
    other.write_text(study.read_text().replace('name = "icd-chapters"', 'name = "icd-again"'))
    with pytest.raises(UserError, match="left of the budget of"):
        examine(approved, other, None)


def test_a_withdrawn_study_is_not_run_again(approved: Home, study: Path) -> None:
    digest = digest_of(study)
    with approved.open_ledger() as ledger:
        ledger.withdraw(digest)
    with pytest.raises(UserError, match="reserved and withdrawn before"), approved.open_node(digest):
        pass


def test_two_processes_do_not_run_one_study_at_once(approved: Home, study: Path) -> None:
    with (
        approved.open_node(digest_of(study)),
        pytest.raises(UserError, match="another process"),
        approved.open_node(digest_of(study)),
    ):
        pass


OPEN = """
import os, sys
from pathlib import Path
from secfed.node.home import Home
home = Home.open(Path(sys.argv[1]))
with home.open_node(bytes.fromhex(sys.argv[2])) as node:
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_node_that_was_killed_is_opened_again_and_reserves_nothing_twice(approved: Home, study: Path) -> None:
    digest = digest_of(study)
    process = subprocess.Popen(
        [sys.executable, "-c", OPEN, str(approved.path), digest.hex()], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"open\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    with approved.open_node(digest) as node:
        assert node.chain.head == digest
    assert kinds(approved) == ["grant", "reserve"]


def test_nodes_from_their_homes_complete_a_study_and_its_approvals_are_its_signatures(
    pristine: Hospitals, tmp_path: Path
) -> None:
    homes = []
    for each in pristine.homes:
        shutil.copytree(each.path, tmp_path / each.name)
        homes.append(Home.open(tmp_path / each.name))
        approve_at(homes[-1], pristine.study_path)
    study = pristine.study
    model, first = load_study_model(study, find_base_among(study, homes[0].path / "models"))
    from contextlib import ExitStack

    refusals: list[str] = []
    with ExitStack() as stack:
        nodes = [stack.enter_context(each.open_node(study.digest)) for each in homes]
        channel = EmbeddedChannel(nodes, Simulation(), lambda name, reason: refusals.append(reason))
        coordinator = Coordinator(
            study,
            model.layout,
            first,
            channel,
            show=lambda event: None,
            keep=lambda receipt, packed: None,
            epsilon_by_round=(1.0,) * study.algorithm.rounds,
        )
        records = coordinator.run()
        states = {node.chain.state.digest(node.chain.layout) for node in nodes}
        digests = study_file_digest(pristine.study_path.read_bytes())
        signed = {
            node.parts.name: node.approve(digests) == home.approval(study.digest)
            for node, home in zip(nodes, homes, strict=True)
        }
    assert not refusals
    assert [record.void for record in records] == [False, False]
    assert len(states) == 1
    assert all(signed.values())
    assert kinds(homes[0]) == ["grant", "reserve", "run", "commit", "release", "commit", "release"]
    with homes[0].open_node(study.digest) as again:  # a restart catches up from its own store
        assert again.chain.length == 2
    paths = [home.study_folder(study.digest) / "approval.json" for home in homes]
    gathered = json.loads(gather(StudyFile.read(pristine.study_path), paths))
    assert list(gathered["signatures"]) == [entry.name for entry in study.roster]


def test_approvals_that_are_missing_or_of_another_text_are_named(
    pristine: Hospitals, approved: Home, study: Path, tmp_path: Path
) -> None:
    path = approved.study_folder(digest_of(study)) / "approval.json"
    with pytest.raises(UserError, match=r"1 of 5 approvals are here; missing: lakeside-hospital"):
        gather(StudyFile.read(study), [path])
    other = tmp_path / "other.toml"
    other.write_text(study.read_text() + "# more\n")
    with pytest.raises(UserError, match="comments are signed, too"):
        gather(StudyFile.read(other), [path])
    other.write_text(study.read_text().replace("rounds = 2", "rounds = 1"))
    with pytest.raises(UserError, match="with other values"):
        gather(StudyFile.read(other), [path])
    stranger = sign_study(Identity(bytes(32)), "stranger", StudyFile.read(study), datetime.now(UTC))
    (tmp_path / "approval.json").write_text(stranger.model_dump_json())
    with pytest.raises(UserError, match="not on the roster"):
        gather(StudyFile.read(study), [tmp_path / "approval.json"])
    forged = read_approval(path).model_copy(update={"signature": "1" * 128})
    (tmp_path / "approval.json").write_text(forged.model_dump_json())
    with pytest.raises(UserError, match="not from that key"):
        gather(StudyFile.read(study), [tmp_path / "approval.json"])


def test_a_store_that_cannot_be_written_leaves_nothing_signed(home: Home, study: Path) -> None:
    candidate = examine(home, study, None)
    shutil.rmtree(home.path / "studies")
    (home.path / "studies").write_text("in the way")
    with pytest.raises(UserError, match="cannot be stored"):
        approve(home, candidate, datetime.now(UTC))
