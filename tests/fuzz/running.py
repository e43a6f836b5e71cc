"""One target in a process of its own: libFuzzer ends the process that it runs in, and so does what it finds.

The process is a fork of one that has instrumented and imported everything, so that it starts at once. It may use so
much more memory and take so long for one input, and no more: what goes beyond is a finding like any other.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.fuzz.target import Target

INPUT_SECONDS = 10
"""The most that one input may take, on a slow and busy machine. Real inputs take milliseconds."""
MEMORY_BYTES = 1 << 29
"""The most that a target may allocate beyond what it starts with."""
_EXECUTIONS = re.compile(r"stat::number_of_executed_units: (\d+)")
_EDGES = re.compile(r"cov: (\d+)")
_TEXT_CHARACTERS = 6000


@dataclass(frozen=True, slots=True)
class Result:
    """What came of fuzzing one target."""

    target: str
    executions: int
    seconds: float
    edges: int
    """Places in the instrumented code that were reached."""
    finding: Path | None
    """The input that breaks the promise."""
    text: str
    """The end of the fuzzer's log, if there is a finding."""


def fuzz(target: Target, *, runs: int | None, seconds: int | None, seed: int, out: Path) -> Result:
    """Fuzz one target until it has run so often, or so long, or breaks its promise.

    Args:
        target: what to fuzz.
        runs: inputs to try; None for no bound.
        seconds: how long to go on; None for no bound.
        seed: of all choices; the same seed and number of runs try the same inputs.
        out: a folder for what is found.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        corpus, log = Path(work) / "corpus", Path(work) / "log"
        corpus.mkdir()
        for at, data in enumerate(target.seeds):
            (corpus / f"{at:03}").write_bytes(data)
        prefix = out / re.sub(r"[^a-z0-9]+", "-", f"{target.name}-")
        before = set(out.iterdir())
        options = [
            f"-seed={seed}",
            f"-max_len={max(target.most_bytes, 2 * max(map(len, target.seeds)))}",
            f"-timeout={INPUT_SECONDS}",
            f"-artifact_prefix={prefix}",
            "-len_control=0",
            # Few changes at a time: many on top of each other leave nothing that gets past the first check.
            "-mutate_depth=2",
            "-cross_over=0",
            "-print_final_stats=1",
        ]
        options += [] if runs is None else [f"-runs={runs}"]
        options += [] if seconds is None else [f"-max_total_time={seconds}"]
        started = time.monotonic()
        status = _in_child(target, [*options, str(corpus)], log)
        took = time.monotonic() - started
        text = log.read_text(errors="replace")
    edges = [int(number) for number in _EDGES.findall(text)]
    executions = _EXECUTIONS.search(text)
    found = sorted(set(out.iterdir()) - before)
    return Result(
        target=target.name,
        executions=int(executions[1]) if executions else 0,
        seconds=round(took, 1),
        edges=max(edges, default=0),
        finding=None if status == 0 else (found[0] if found else out),
        text="" if status == 0 else text[-_TEXT_CHARACTERS:],
    )


def _in_child(target: Target, options: list[str], log: Path) -> int:
    """Fork, fuzz, and wait. Returns the exit code."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        _fuzz_until_the_end(target, options, log)
    except SystemExit:
        # What the target raised ends `Fuzz` with this. libFuzzer writes the input down at the C library's exit, and
        # whatever Python would still do on its way out belongs to the parent.
        ctypes.CDLL(None).exit(1)
    finally:
        os._exit(99)


def _fuzz_until_the_end(target: Target, options: list[str], log: Path) -> None:
    import atheris

    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))

    def mutate(data: bytes, most_bytes: int, seed: int) -> bytes:
        try:
            return target.mutate(data, most_bytes, Random(seed))[:most_bytes]
        except Exception:
            traceback.print_exc()  # a defect of the mutator's own, of which Atheris would not tell
            os._exit(3)

    atheris.Setup([target.name, *options], target.check, custom_mutator=mutate)
    atheris.Fuzz()
