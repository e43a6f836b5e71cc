"""Flip every byte of a run's evidence, one at a time, and see whether the verifier finds it and names its file.

Evidence is every file that `secfed verify` checks to the last byte: the study, the signatures under it, the first
state, every receipt and sum, the adapter's weights, every ledger. `summary.json` and the reports are claims about it;
nothing in the folder proves some of what they say (times, accuracy), so they are not flipped here.

One flip changes one bit of one byte; the bits take turns from byte to byte. Every flip is judged by the verifier's own
code on a copy of the files (`audits.evidence.resumed` says how it gets there fast); the run's folder is only read. A
flip is found when the verifier stops at that file, or at the folder that it is in: the digest of an adapter covers its
files together.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audits.evidence.resumed import ResumedVerifier, remembered
from secfed.errors import UserError
from secfed.reports.folder import FIRST_STATE, LEDGERS, RECEIPTS, REPORT, REPORT_PAGE, STUDY, SUMMARY, SUMS
from secfed.study.approvals import SIGNATURES
from secfed.verify.adapter import CONFIG, WEIGHTS
from secfed.verify.evidence import file_names
from secfed.verify.folder import verify_folder

STRETCH = 1024
"""Flips that one process makes before it gets other work."""
_CLAIMS = (CONFIG, SUMMARY, REPORT, REPORT_PAGE)
"""The other files that the verifier reads."""


@dataclass(frozen=True, slots=True)
class Flips:
    """The results of the flips in one file, or in a stretch of it."""

    place: str
    """The file, relative to the run's folder."""
    size: int
    """Its bytes, flipped or not."""
    flipped: int
    missed: tuple[int, ...]
    """Offsets of the flips that the verifier did not notice."""
    misplaced: tuple[tuple[int, str], ...]
    """Offsets of the flips that the verifier blamed on another file, and which."""

    @property
    def found(self) -> int:
        return self.flipped - len(self.missed) - len(self.misplaced)

    def with_more(self, other: Flips) -> Flips:
        """These flips and those of another stretch of the same file."""
        return Flips(
            self.place,
            self.size,
            self.flipped + other.flipped,
            self.missed + other.missed,
            self.misplaced + other.misplaced,
        )


def evidence_files(folder: Path) -> list[str]:
    """Every file of a run whose every byte the verifier accounts for, in the order in which it reads them."""
    folders = ((RECEIPTS, SUMS), (LEDGERS,))
    rounds, ledgers = (
        [f"{inside}/{name}" for inside in group for name in file_names(folder, inside)] for group in folders
    )
    return [STUDY, SIGNATURES, FIRST_STATE, *rounds, WEIGHTS, *ledgers]


def flip_everything(folder: Path, *, every: int = 1, processes: int | None = None) -> Iterator[Flips]:
    """Flip the bytes of all evidence of a run.

    Args:
        folder: the run's folder; nothing in it is changed.
        every: flip every `every`-th byte of each file, and its last one. 1 is every byte.
        processes: how many work at once; 1 uses only this process. None means one for each processor.

    Yields:
        The flips of one stretch of a file after the other, in the order of `evidence_files`: see `by_file`.

    Raises:
        UserError: the folder holds no run, or one that is already broken.
    """
    problem = verify_folder(folder).problem
    if problem is not None:
        raise UserError(
            f"{folder} does not hold as it is ({problem})", "Audit the folder of a run that `secfed verify` accepts"
        )
    with tempfile.TemporaryDirectory(prefix="secfed-audit-") as scratch:
        work = [stretch for place in evidence_files(folder) for stretch in _stretches(folder, place, every)]
        count = min(processes or os.cpu_count() or 1, len(work))
        if count == 1:
            with remembered():
                yield from map(_Damaged(folder, Path(scratch)).flip, work)
            return
        # Fresh interpreters: forking is not safe beside a display that has threads.
        pool = multiprocessing.get_context("spawn").Pool(count, _start_process, (folder, Path(scratch)))
        with pool:
            yield from pool.imap(_flip_in_process, work)


def by_file(stretches: Iterator[Flips]) -> Iterator[Flips]:
    """Combine stretches: one result for each file, as soon as it is complete."""
    whole: Flips | None = None
    for stretch in stretches:
        if whole is not None and whole.place != stretch.place:
            yield whole
            whole = None
        whole = stretch if whole is None else whole.with_more(stretch)
    if whole is not None:
        yield whole


def planned(folder: Path, every: int = 1) -> int:
    """The number of flips to make."""
    return sum(len(stretch.offsets) for place in evidence_files(folder) for stretch in _stretches(folder, place, every))


def as_table(results: Sequence[Flips], most: int = 10) -> dict[str, Any]:
    """The results as one JSON object, with the first few offsets of flips that were not found."""
    files: list[dict[str, Any]] = [
        {
            "file": each.place,
            "bytes": each.size,
            "flipped": each.flipped,
            "found": each.found,
            "missed": len(each.missed),
            "missed_at": list(each.missed[:most]),
            "misplaced": len(each.misplaced),
            "misplaced_at": [{"byte": at, "named": named} for at, named in each.misplaced[:most]],
        }
        for each in results
    ]
    totals = {name: sum(entry[name] for entry in files) for name in ("bytes", "flipped", "found")}
    return {"ok": all_found(results), **totals, "files": files}


def all_found(results: Sequence[Flips]) -> bool:
    """Whether every flip was found in its file."""
    return all(each.found == each.flipped for each in results)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Offsets in one file, for one process."""

    place: str
    size: int
    offsets: Sequence[int]


def _stretches(folder: Path, place: str, every: int) -> Iterator[_Stretch]:
    size = (folder / place).stat().st_size
    if not size:
        return
    offsets = range(0, size, every)
    for start in range(0, len(offsets), STRETCH):
        yield _Stretch(place, size, offsets[start : start + STRETCH])
    if offsets[-1] != size - 1:
        yield _Stretch(place, size, (size - 1,))


class _Damaged:
    """A private copy of a run's files, in which one byte at a time is changed."""

    def __init__(self, source: Path, scratch: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(dir=scratch))
        for place in (*evidence_files(source), *_CLAIMS):
            (self._folder / place).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / place, self._folder / place)
        self._verifier = ResumedVerifier(self._folder)

    def flip(self, stretch: _Stretch) -> Flips:
        """Flip these bytes, each alone, and put each back."""
        missed: list[int] = []
        misplaced: list[tuple[int, str]] = []
        with (self._folder / stretch.place).open("r+b", buffering=0) as file:
            for at in stretch.offsets:
                (original,) = os.pread(file.fileno(), 1, at)
                os.pwrite(file.fileno(), bytes([original ^ 1 << at % 8]), at)
                named = self._named(stretch.place)
                os.pwrite(file.fileno(), bytes([original]), at)
                if named is None:
                    missed.append(at)
                elif named != stretch.place and not stretch.place.startswith(f"{named}/"):
                    misplaced.append((at, named))
        return Flips(stretch.place, stretch.size, len(stretch.offsets), tuple(missed), tuple(misplaced))

    def _named(self, place: str) -> str | None:
        try:
            return self._verifier.fault(place)
        except Exception as error:  # the verifier must name a file for any input: its failure is a finding
            return f"no file ({type(error).__name__})"


_own: _Damaged
_while_it_lives = ExitStack()
"""Contexts that stay active as long as a process of the pool."""


def _start_process(source: Path, scratch: Path) -> None:
    global _own  # noqa: PLW0603 - each process of the pool has one copy, and no other place to keep it
    _while_it_lives.enter_context(remembered())
    _own = _Damaged(source, scratch)


def _flip_in_process(stretch: _Stretch) -> Flips:
    return _own.flip(stretch)
