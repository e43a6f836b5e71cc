"""The aggregator's home: the folder from which a server runs the studies that its operator put there.

    aggregator.toml              deadlines, if they differ from the defaults
    models/                      base models, each in a folder of its own, found by digest
    studies/<digest>/            study.toml, and test.jsonl: the held-out records; left-out.json, if sites are left out
    runs/<digest>/               the run's folder (`secfed.reports.folder`); its log and state are beside it
    runs/<digest>.lock           held by the one process that runs the study
    kit.txt                      where the server's start-up kit is
    connected.json               the sites that the server has a connection open to

Nothing in it is secret from the operator, and no node trusts anything in it. A job names a study by its digest; the
aggregator runs the file here, and only if the file has that digest.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from secfed.aggregator.left_out import read_left_out, write_left_out
from secfed.errors import UserError
from secfed.files.whole import READABLE, try_lock, write_whole
from secfed.reports.folder import STUDY
from secfed.rounds.deadlines import Deadlines
from secfed.study.manifest import Study, load_study
from secfed.study.problems import read_table_file
from secfed.study.sections import Section

VARIABLE = "SECFED_AGGREGATOR"
SETTINGS, MODELS, STUDIES, RUNS, TEST_SET = "aggregator.toml", "models", "studies", "runs", "test.jsonl"
LEFT_OUT = "left-out.json"


class _Settings(Section):
    """The whole file."""

    deadlines: Deadlines = Deadlines()


def default_home() -> Path:
    """The default place: the variable SECFED_AGGREGATOR, or ~/.secfed-aggregator."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else Path.home() / ".secfed-aggregator"


@dataclass(frozen=True, slots=True)
class AggregatorHome:
    """An aggregator's home."""

    path: Path

    def deadlines(self) -> Deadlines:
        """How long to wait. Raises UserError if aggregator.toml cannot be read or is not valid."""
        path = self.path / SETTINGS
        if not path.exists():
            return Deadlines()
        return read_table_file(_Settings, path, "Check its permissions").deadlines

    @property
    def models(self) -> Path:
        """Holds the base models."""
        return self.path / MODELS

    def study_file(self, digest: bytes) -> Path:
        """Where the study of this digest is kept."""
        return self.path / STUDIES / digest.hex() / STUDY

    def test_set(self, digest: bytes) -> Path:
        """Where the study's held-out records are."""
        return self.path / STUDIES / digest.hex() / TEST_SET

    def leave_out(self, study: Study, names: Iterable[str]) -> frozenset[int]:
        """Leave exactly these sites out of the study's rounds from the next one on. Returns their roster indices.

        Raises:
            UserError: the study is not kept here, or not all of these sites can be left out.
        """
        self.study(study.digest)
        return write_left_out(self._left_out_file(study), study, names)

    def left_out(self, study: Study) -> frozenset[int]:
        """Who is left out of the study's next round, by roster index. Raises UserError if the file is not valid."""
        return read_left_out(self._left_out_file(study), study)

    def _left_out_file(self, study: Study) -> Path:
        return self.path / STUDIES / study.digest.hex() / LEFT_OUT

    @property
    def runs(self) -> Path:
        """Holds the studies' runs."""
        return self.path / RUNS

    def run(self, digest: bytes) -> Path:
        """The folder of the study's run."""
        return self.runs / digest.hex()

    def take_run(self, digest: bytes) -> int | None:
        """Take a study's run for this process alone, until the process ends in whatever way.

        Returns:
            A descriptor that is the lock; None if another process has it.

        Raises:
            OSError: the folder cannot be written.
        """
        folder = self.run(digest)
        folder.parent.mkdir(parents=True, exist_ok=True)
        return try_lock(folder.with_name(f"{folder.name}.lock"))

    def study(self, digest: bytes) -> Study:
        """The study of this digest.

        Raises:
            UserError: it is not kept here, or another study is in its place.
        """
        path = self.study_file(digest)
        study = load_study(path)
        if study.digest != digest:
            raise UserError(
                f"{path} is another study than its folder says: its digest is {study.digest.hex()}",
                "Submit the study again with `secfed federation submit`",
            )
        return study

    def add(self, study_path: Path) -> Study:
        """Put a study here, with the test set and the base model beside it. Adding the same study twice does no harm.

        Raises:
            UserError: it is not a study, its test set or its model is missing, or another file of it is here already.
        """
        study = load_study(study_path)
        test_set, base = study_path.parent / TEST_SET, study_path.parent / study.model.base
        target = self.study_file(study.digest)
        data = study_path.read_bytes()
        if target.exists() and target.read_bytes() != data:
            raise UserError(
                f"{target} has the same values as {study_path}, but other comments or layout, and the sites signed "
                "those, too",
                "Submit the file that the sites signed",
            )
        if not test_set.is_file():
            raise UserError(f"{test_set} is missing", "Put the held-out records beside the study, as JSON lines")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self.models.mkdir(parents=True, exist_ok=True)
            kept = self.models / study.model.digest.removeprefix("sha256:")
            if base.is_dir() and not kept.exists():
                part = kept.with_name(f".{kept.name}.part")
                shutil.rmtree(part, ignore_errors=True)
                shutil.copytree(base, part)
                part.rename(kept)
            write_whole(self.test_set(study.digest), test_set.read_bytes(), READABLE)
            write_whole(target, data, READABLE)
        except OSError as error:
            raise UserError(
                f"the aggregator's folder {self.path} cannot be written ({error.strerror})",
                "Check its permissions and the space on its disk, and submit again",
            ) from error
        return study
