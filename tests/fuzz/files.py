"""Targets that are files: everything in a run's folder that the verifier reads, and the TOML files of study and site.

A run without torch is written once. Each target has a copy of its folder, in which it replaces one file, and gives it
to the part of the verifier that reads it; the rest of the folder is as the run left it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from crypto.identity import Identity
from dp.entries import NOTHING_BEFORE, content_digest, entry_digest, entry_text
from dp.errors import LedgerCorrupt
from dp.ledger_copy import read_copy, write_copy
from secfed.engines.embedded.channel import load_simulation
from secfed.errors import UserError
from secfed.files.whole import json_text
from secfed.models.adapter import CONFIG_FILE, WEIGHTS_FILE
from secfed.node.keys import read_identity
from secfed.node.policy import load_policy
from secfed.node.settings import NodeFile, read_node_file, write_node_file
from secfed.reports import folder as run_folder
from secfed.study.approvals import SIGNATURES, StudyFile, approval_text, read_approval, sign_study
from secfed.study.manifest import Study, load_study
from secfed.study.signing import LEDGER_LABEL, entry_check
from secfed.verify.adapter import check_adapter
from secfed.verify.approval import check_approval
from secfed.verify.claims import check_summary
from secfed.verify.evidence import Broken
from secfed.verify.ledgers import check_ledgers
from secfed.verify.report import check_report
from secfed.verify.rounds import check_rounds
from tests.fuzz.mutators import (
    cbor_mutator,
    json_lines_mutator,
    json_mutator,
    mutate_bytes,
    safetensors_mutator,
    toml_mutator,
)
from tests.fuzz.resigning import resigner
from tests.fuzz.target import LARGE, Mutator, Target, check_text, need
from tests.secfed.federation import cut, identities
from tests.secfed.run_folders import write_run

Check: TypeAlias = Callable[[Path], object]

_CUTS = (cut(2, 2, "masked input"), cut(0, 3, "agree"), cut(1, 3, "agree"))
_LAST = 4
_LEDGER = run_folder.ledger_file("hospital-0")
_WEIGHTS, _CONFIG = f"{run_folder.ADAPTER}/{WEIGHTS_FILE}", f"{run_folder.ADAPTER}/{CONFIG_FILE}"
_POLICY = b"""\
[cohort]
minimum = 3
honest_minimum = 2
[budget]
population = "test"
patients = 10000
epsilon = 8.0
delta = 1e-5
epsilon_per_study = 8.0
[allow]
base_models = ["sha256:5555555555555555555555555555555555555555555555555555555555555555"]
[[allow.tasks]]
labels = ["no", "yes"]
"""
_NODE = b"""\
name = "hospital-0"
[[data]]
name = "letters"
file = "/srv/letters.jsonl"
population = "test"
patient_column = "patient"
"""
_SIMULATION = b"""\
[[cut]]
node = "hospital-1"
round = 2
from = "masked input"
"""


class RunFolder:
    """A run, as `secfed verify` finds it, and what its parts prove."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self.whole = base / "run"
        write_run(self.whole, base / "work", _CUTS)
        self.study = check_approval(self.whole)
        self.history = check_rounds(self.whole, self.study)
        self.adapter = check_adapter(self.whole, self.history.chain)
        self.accounts = check_ledgers(self.whole, self.study, self.history)
        self.summary = check_summary(self.whole, self.study, self.history, self.adapter, self.accounts)

    def copy(self, name: str) -> Path:
        """A copy for one target."""
        return Path(shutil.copytree(self.whole, self._base / name.replace("/", " ")))

    def rounds_and_adapter(self, folder: Path) -> object:
        """The rounds, and an adapter that belongs to them."""
        return check_adapter(folder, check_rounds(folder, self.study).chain)


def verifier_targets(run: RunFolder) -> Iterator[Target]:
    """Every file of a run."""
    keys = identities(len(run.study.roster))
    receipt, total = run_folder.receipt_file(_LAST), run_folder.sum_file(_LAST)
    receipts = {run_folder.receipt_file(number) for number in range(1, 10_000)}
    by_text = json_mutator(json_text)

    def rounds(folder: Path) -> object:
        return check_rounds(folder, run.study)

    def ledgers(folder: Path) -> object:
        return check_ledgers(folder, run.study, run.history)

    def adapter(folder: Path) -> object:
        return check_adapter(folder, run.history.chain)

    def summary(folder: Path) -> object:
        return check_summary(folder, run.study, run.history, run.adapter, run.accounts)

    def report(folder: Path) -> object:
        return check_report(folder, run.study, run.summary)

    yield _evidence(run, run_folder.STUDY, check_approval, toml_mutator)
    # When no signature fits any more, it is the study that is called wrong.
    yield _evidence(run, SIGNATURES, check_approval, by_text, also={run_folder.STUDY})
    yield _evidence(run, run_folder.FIRST_STATE, rounds, cbor_mutator())
    yield _evidence(run, total, rounds, mutate_bytes)
    yield _claim(run, receipt, rounds, cbor_mutator(resigner(keys)), also={total})
    yield _claim(run, _LEDGER, ledgers, json_lines_mutator(_ledger_writer(keys[0])), also=receipts)
    yield _claim(run, _WEIGHTS, adapter, safetensors_mutator)
    yield _claim(run, _CONFIG, adapter, by_text)
    yield _claim(run, run_folder.SUMMARY, summary, by_text, also={run_folder.ADAPTER, *receipts})
    yield _claim(run, run_folder.REPORT, report, by_text, also={run_folder.REPORT_PAGE})
    yield _claim(run, run_folder.REPORT_PAGE, report, mutate_bytes)
    yield _void_start(run)
    yield _ledger_copy(run, keys[0])


def _evidence(run: RunFolder, place: str, check: Check, mutate: Mutator, also: Collection[str] = ()) -> Target:
    """A file of which not one byte can change unseen."""
    return _file(run, place, check, mutate, also, "Broken that names this file, unless not one byte has changed", True)


def _claim(run: RunFolder, place: str, check: Check, mutate: Mutator, also: Collection[str] = ()) -> Target:
    """A file that can say several things that are right, or whose authors sign what they like here."""
    return _file(run, place, check, mutate, also, "Broken that names this file, or one that it names; or it holds")


def _file(
    run: RunFolder,
    place: str,
    check: Check,
    mutate: Mutator,
    also: Collection[str],
    promise: str,
    exact: bool = False,
) -> Target:
    name = f"verify/{place}"
    folder = run.copy(name)
    original = (folder / place).read_bytes()

    def verify(data: bytes) -> None:
        (folder / place).write_bytes(data)
        try:
            check(folder)
        except Broken as problem:
            check_text(problem)
            need(problem.place == place or problem.place in also, f"the fault is sought in {problem.place}")
            need(not exact or data != original, "the file as it was written is refused")
            return
        need(not exact or data == original, "a changed file holds")

    return Target(name, promise, verify, (original,), mutate, LARGE)


def _void_start(run: RunFolder) -> Target:
    """Without receipts nobody but the folder's author vouches for the first state that the adapter is held against."""
    name = "verify/void run"
    folder = run.copy(name)
    original = (folder / run_folder.FIRST_STATE).read_bytes()
    for part in (run_folder.RECEIPTS, run_folder.SUMS):
        shutil.rmtree(folder / part)

    def verify(data: bytes) -> None:
        (folder / run_folder.FIRST_STATE).write_bytes(data)
        try:
            run.rounds_and_adapter(folder)
        except Broken as problem:
            check_text(problem)
            need(problem.place in (run_folder.FIRST_STATE, _WEIGHTS), f"the fault is sought in {problem.place}")

    return Target(name, "Broken that names first state or weights", verify, (original,), cbor_mutator(), LARGE)


def _ledger_copy(run: RunFolder, key: Identity) -> Target:
    data, study = (run.whole / _LEDGER).read_bytes(), run.study.digest

    def check(data: bytes) -> None:
        try:
            copy = read_copy(data, study, entry_check(key.public))
        except LedgerCorrupt as error:
            check_text(error)
            return
        need(write_copy(copy) == data, "two copies of one ledger")

    mutate = json_lines_mutator(_ledger_writer(key))
    return Target("ledger copy", "LedgerCorrupt, or entries of which this is the copy", check, (data,), mutate, LARGE)


def _content(line: Any) -> bytes:
    """What the chain goes over: of a shown entry the digest of its text, of another one what it gives for it."""
    if "body" in line:
        return content_digest(entry_text(line["body"]))
    return bytes.fromhex(line["content"])


def _ledger_writer(key: Identity) -> Callable[[list[Any]], bytes]:
    """Chains and signs edited entries, as a node would that lies in its own ledger."""

    def write(lines: list[Any]) -> bytes:
        before, text = NOTHING_BEFORE, "".join(entry_text(head) + "\n" for head in lines[:1])
        for position, line in enumerate(lines[1:], start=1):
            before = entry_digest(before, position, _content(line))
            text += entry_text({**line, "signature": key.sign(LEDGER_LABEL, before).hex()}) + "\n"
        return text.encode()

    return write


def setting_targets(run: RunFolder, base: Path) -> Iterator[Target]:
    """What a person puts beside a study: files that are read before anything starts."""
    study_text = (run.whole / run_folder.STUDY).read_bytes()
    key = identities(1)[0].seed().hex().encode() + b"\n"
    yield _setting(base, "study.toml", load_study, _uses_study, (study_text,), toml_mutator)
    yield _setting(base, "policy.toml", _policy_for(run.study), None, (_POLICY,), toml_mutator)
    simulation = _setting(
        base, "simulation.toml", lambda path: load_simulation(path, run.study), None, (_SIMULATION,), toml_mutator
    )
    yield simulation
    yield _setting(base, "node.toml", read_node_file, _writes_again, (_NODE,), toml_mutator)
    file = StudyFile(run.study, study_text)
    approval = approval_text(sign_study(identities(1)[0], "hospital-0", file, datetime.now(UTC)))
    yield _setting(base, "approval.json", read_approval, None, (approval.encode(),), mutate_bytes)
    yield _setting(base, "identity.key", read_identity, None, (key,), mutate_bytes)


def _writes_again(node: NodeFile) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "node.toml"
        write_node_file(path, node)
        need(read_node_file(path) == node, "a node file that is another one once it is written again")


def _setting(
    base: Path,
    name: str,
    load: Callable[[Path], Any],
    use: Callable[[Any], None] | None,
    seeds: Sequence[bytes],
    mutate: Mutator,
) -> Target:
    path = base / name
    path.touch(mode=0o600)

    def check(data: bytes) -> None:
        path.write_bytes(data)
        try:
            value = load(path)
        except UserError as error:
            check_text(error)
            return
        if use is not None:
            use(value)

    return Target(
        f"setting/{name}", "UserError in one line, or values that can be used", check, tuple(seeds), mutate, LARGE
    )


def _policy_for(study: Study) -> Callable[[Path], None]:
    return lambda path: load_policy(path, "hospital-0").check(study, "hospital-0")


def _uses_study(study: Study) -> None:
    need(len(study.digest) == 32 and len(study.identities) == len(study.roster), "a study without a digest")
    need(Study.model_validate_json(json.dumps(study.model_dump(mode="json"))).digest == study.digest, "two digests")
