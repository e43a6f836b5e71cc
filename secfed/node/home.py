"""A node's home: the folder, under the site's control, that holds everything the node is and remembers.

    identity.key                 the site's signing key
    policy.toml                  what its owner allows
    node.toml                    its name and its data files
    models/                      base models, each in its own folder, found by digest
    studies/<digest>/            one per approved study: study.toml, approval.json, choice.json
    ledger.sqlite, node.sqlite   what was spent, and what was joined and signed
    kit.txt                      the path of the start-up kit used last

A node runs only what is in its own `studies/`: a request to run names a study by its digest. A study counts as approved
only if this node's own signature over its values and its file verifies. A file that was changed, or put there by
somebody else, is therefore not approved.

After a crash at any moment, everything here can be repeated: a reservation is kept and never made twice.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from crypto.identity import Identity
from dp.ledger import Ledger
from secfed.errors import UserError
from secfed.files.whole import json_text, open_to_others, sync_folder, try_lock, write_whole
from secfed.node.consent import Consent
from secfed.node.data_watch import DataWatch
from secfed.node.keys import read_identity
from secfed.node.node import Node
from secfed.node.parts import NodeParts
from secfed.node.policy import Policy, PolicyFile, load_policy, load_policy_file
from secfed.node.settings import Dataset, NodeFile, read_node_file
from secfed.node.sites import LEDGER_FILE, STORE_FILE, Site, check_budget, check_site, reserve_once
from secfed.node.store import NodeStore
from secfed.node.texts import check_texts
from secfed.rounds.run_facts import EMBEDDED
from secfed.study.approvals import Approval, StudyFile, approval_text, read_approval
from secfed.study.manifest import Name, Study
from secfed.study.sections import Section
from secfed.study.signing import entry_check, entry_signer

VARIABLE = "SECFED_HOME"
KEY, POLICY, NODE, MODELS, STUDIES = "identity.key", "policy.toml", "node.toml", "models", "studies"
STUDY, APPROVAL, CHOICE, LOCK = "study.toml", "approval.json", "choice.json", "lock"
_CHOICE_BYTES_MAX = 4096


def default_home() -> Path:
    """The default home of a node: the environment variable SECFED_HOME, or ~/.secfed."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else Path.home() / ".secfed"


class _Choice(Section):
    """What the owner chose for a study. This stays at the node; the approval beside it is handed on."""

    format: Literal[1] = 1
    data: Name
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the study file, as the owner saw it."""


@dataclass(frozen=True, slots=True)
class Approved:
    """A study that this node's owner approved."""

    file: StudyFile
    approval: Approval
    data: str
    """The data file to train on, by its name in `node.toml`."""
    data_digest: str
    """SHA-256 of that file, as its owner approved it."""
    folder: Path

    @property
    def study(self) -> Study:
        """Its values."""
        return self.file.study


@dataclass(frozen=True, slots=True)
class Home:
    """A node's home, opened."""

    path: Path
    identity: Identity
    node: NodeFile

    @classmethod
    def open(cls, path: Path) -> Home:
        """Open a home and check that only its owner can use it.

        Raises:
            UserError: the home is missing, others can use it, or a file in it is missing or wrong.
        """
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise UserError(
                f"there is no node in {path} ({error.strerror})",
                "Set a node up with `secfed node init NAME`, or name another folder with --home",
            ) from error
        if open_to_others(mode):
            raise UserError(
                f"the node's folder {path} is open to users other than its owner (mode {stat.S_IMODE(mode):04o})",
                f"Run `chmod 700 {path}`",
            )
        home = cls(path, read_identity(path / KEY), read_node_file(path / NODE))
        home.policy()
        return home

    @property
    def name(self) -> str:
        """This node's name."""
        return self.node.name

    def policy(self) -> PolicyFile:
        """The policy, read from its file now. Raises UserError if the file cannot be read as a policy."""
        return load_policy_file(self.path / POLICY, self.name)

    def index_in(self, study: Study) -> int:
        """This node's place in a study's roster, by its key.

        Raises:
            UserError: the node is not on the roster.
        """
        own = self.identity.public.raw.hex()
        for index, entry in enumerate(study.roster):
            if entry.identity == own:
                return index
        raise UserError(
            f"the key of this node, {self.name}, is not on the roster of {study.name}",
            f"Ask the study's author to put this identity on the roster: {own}",
        )

    def study_folder(self, digest: bytes) -> Path:
        """The folder of an approved study."""
        return self.path / STUDIES / digest.hex()

    def stored(self, digest: bytes) -> Approved:
        """A study that this node's owner approved.

        Raises:
            UserError: the study is not stored, or the stored files are not what was approved.
        """
        folder = self.study_folder(digest)
        if not folder.is_dir():
            raise UserError(
                f"no study {digest.hex()[:16]} is approved at {self.name}",
                "If its owner agrees, approve it with `secfed node approve STUDY`",
            )
        file, approval = StudyFile.read(folder / STUDY), read_approval(folder / APPROVAL)
        if file.study.digest != digest or not approval.holds(file.study, file.data, self.identity.public):
            raise UserError(
                f"the files in {folder} are not what was approved here",
                f"Move {folder} away as evidence. If its owner agrees, approve the study again",
            )
        choice = _read_choice(folder / CHOICE)
        return Approved(file, approval, choice.data, choice.sha256, folder)

    def approval(self, digest: bytes) -> bytes:
        """This node's signature under an approved study. Raises UserError if it does not verify."""
        return bytes.fromhex(self.stored(digest).approval.signature)

    def digests(self) -> tuple[bytes, ...]:
        """The digests of all stored studies, whether or not they are still what was approved."""
        folder = self.path / STUDIES
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        return tuple(bytes.fromhex(name) for name in names if len(name) == 64 and set(name) <= set("0123456789abcdef"))

    def digest_of(self, beginning: str) -> bytes:
        """The stored study whose digest begins with these hexadecimal digits.

        Raises:
            UserError: no study matches, or several do.
        """
        found = [digest for digest in self.digests() if digest.hex().startswith(beginning)] if beginning else []
        if len(found) != 1:
            raise UserError(
                f"{len(found)} studies of {self.name} have a digest that begins with {beginning}",
                "Give more digits; `secfed node status --json` lists the full digests",
            )
        return found[0]

    def keep(self, file: StudyFile, approval: Approval, data: str, data_digest: str) -> Path:
        """Put an approved study into the store, whole or not at all. Returns its folder.

        Args:
            file, approval: what was approved.
            data: the name of the data file that it trains on.
            data_digest: of that file.

        Raises:
            OSError: it cannot be written.
        """
        target = self.study_folder(file.study.digest)
        beside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))  # mode 0700
        write_whole(beside / STUDY, file.data)
        write_whole(beside / CHOICE, _choice_text(data, data_digest))
        write_whole(beside / APPROVAL, approval_text(approval).encode())
        beside.rename(target)
        sync_folder(target.parent)
        return target

    def choose(self, digest: bytes, data: str, data_digest: str) -> None:
        """Let an approved study train on this data file as it is now. Raises OSError if it cannot be written."""
        write_whole(self.study_folder(digest) / CHOICE, _choice_text(data, data_digest))

    def open_ledger(self) -> Ledger:
        """This node's ledger, made on first use.

        Raises:
            UserError: studies were approved here, but the ledger is missing or empty: a new one would spend their
                budget again.
            LedgerError: the ledger cannot be opened, or the file is not a ledger.
        """
        path, begun = self.path / LEDGER_FILE, bool(self.digests())
        gone = UserError(
            f"the ledger of {self.name} is missing from {path}, although studies were approved here",
            "Stop the node. Restore the newest copy together with ledger.sqlite-wal: only they record what was "
            "spent. Then, before the node runs, record the restore with `secfed node restored` for each of its "
            "studies",
        )
        if begun and (not path.exists() or (path.is_file() and path.stat().st_size == 0)):
            raise gone
        ledger = Ledger(path, entry_signer(self.identity))
        try:
            if begun and not ledger.sequence:  # a copy without SQLite's log, which held the entries
                raise gone
        except BaseException:
            ledger.close()
            raise
        return ledger

    def site(self, study: Study, dataset: Dataset) -> Site:
        """Read the data, and check it and the current policy against a study. Does not check the budget.

        Raises:
            UserError: the data or the policy does not fit the study.
        """
        name = study.roster[self.index_in(study)].name
        policy = load_policy(self.path / POLICY, name, dataset.population)
        if study.task.patient_column != dataset.patient_column:
            raise UserError(
                f"the study identifies patients by {study.task.patient_column}, but {dataset.name} identifies them by "
                f"{dataset.patient_column}",
                "Ask for a study whose task.patient_column matches this site's",
            )
        file, encoding = Path(dataset.file), dataset.encoding
        return check_site(study, name, self.identity, policy, file, self.path, encoding)

    def approved_site(self, kept: Approved) -> tuple[Site, DataWatch]:
        """Like `site`, for an approved study, on exactly the data file that was approved.

        Returns:
            The site, and a watch that detects later changes to the data file.

        Raises:
            UserError: the data or the policy does not fit the study, or the file differs from the approved one.
        """
        dataset = self.node.dataset(kept.data)
        watch = DataWatch(Path(dataset.file), kept.data_digest, dataset.name)
        watch.check()
        site = self.site(kept.study, dataset)
        watch.check()  # otherwise the records read may mix old and new content
        return site, watch

    @contextmanager
    def open_node(
        self,
        digest: bytes,
        *,
        engine: str = EMBEDDED,
        on_step: Callable[[str, int], None] | None = None,
        tell_owner: Callable[[str, str], None] | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> Iterator[Node]:
        """The node, ready for an approved study: its data read, its model loaded, its budget reserved.

        It can be opened again however the last run ended: a study keeps the reservation that it holds.

        Args:
            digest: the study's.
            engine: the engine's name (`secfed.rounds.run_facts`), as the node signs it.
            on_step, tell_owner, pause: as for `secfed.node.node.Node`.

        Raises:
            UserError: the study is not approved, another process runs it, or policy, data or model forbid it. The text
                is for the owner only: it may reveal the number of patients.
            DPError: the ledger refuses, or is not intact.
        """
        from secfed.models.trainers import open_study_model, trainer_for
        from secfed.study import account
        from secfed.study.base import find_base_among  # loads torch

        kept = self.stored(digest)
        study, index = kept.study, self.index_in(kept.study)
        with _alone(kept.folder / LOCK), self.open_ledger() as ledger:
            ledger.verify(entry_check(self.identity.public))
            site, watch = self.approved_site(kept)
            if ledger.reservation(digest) is None:
                check_budget(study, site)
            account.check_noise(study)
            opened = open_study_model(study, find_base_among(study, self.path / MODELS))
            check_texts(site, opened.tokenizer, study)
            trainer = trainer_for(study, index, opened, site.patients)
            reserve_once(study, site, ledger)
            with NodeStore(self.path / STORE_FILE) as store:
                parts = NodeParts(site.name, self.identity, site.policy, ledger, store, trainer, engine)
                consent = Consent(
                    self.path,
                    self.path / POLICY,
                    unchanged=watch.check,
                    paused=partial(store.paused, digest),
                    allows=partial(self._policy_for, kept, site, ledger, opened.tokenizer),
                )
                yield Node(study, parts, on_step=on_step, tell_owner=tell_owner, pause=pause, consent=consent)

    def _policy_for(self, kept: Approved, site: Site, ledger: Ledger, tokenizer: Any) -> Policy:
        """The current policy, if it still allows an open study. Raises UserError and DPError."""
        policy = load_policy(self.path / POLICY, site.name, self.node.dataset(kept.data).population)
        policy.check(kept.study, site.name)
        now = replace(site, policy=policy)
        reserve_once(kept.study, now, ledger)  # already reserved: this only checks that the policy still agrees
        if policy.texts != site.policy.texts:
            check_texts(now, tokenizer, kept.study)
        return policy


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Lock a study: one process runs it at a time. The lock ends with its process, however that ends.

    Raises:
        UserError: another process holds the lock.
    """
    descriptor = try_lock(path)
    if descriptor is None:
        raise UserError(
            "another process of this node already runs this study", "Stop that process first, or let it continue"
        )
    try:
        yield
    finally:
        os.close(descriptor)


def _choice_text(data: str, data_digest: str) -> bytes:
    return json_text(_Choice(data=data, sha256=data_digest).model_dump()).encode()


def _read_choice(path: Path) -> _Choice:
    try:
        with path.open("rb") as file:
            return _Choice.model_validate_json(file.read(_CHOICE_BYTES_MAX))
    except (OSError, ValidationError) as error:
        raise UserError(
            f"{path} does not name the data file that this study trains on",
            "Move the study's folder away and approve the study again",
        ) from error
