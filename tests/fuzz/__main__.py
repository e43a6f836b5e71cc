"""`python -m tests.fuzz`: fuzz some or all targets, or give one of them an input that was found."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.fuzz.running import Result, fuzz
from tests.fuzz.target import Target

INSTRUMENTED = ["crypto", "protocols", "dp", "secfed", "tomllib"]
_EXAMPLES = """\
examples:
  python -m tests.fuzz --target cbor --seconds 30
  python -m tests.fuzz --target client/masked --replay runs/fuzz/client-masked-crash-0123456789

Ends with 0 when nothing was found, with 1 and the inputs when something was, with 2 when it was called wrongly.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        replayed = None if options.replay is None else options.replay.read_bytes()
    except OSError as error:
        print(f"tests.fuzz: {options.replay} cannot be read ({error.strerror}). Check its name.", file=sys.stderr)
        return 2
    if replayed is not None and len(options.target) != 1:
        print("tests.fuzz: name the one target that the input is for. Add --target NAME.", file=sys.stderr)
        return 2
    try:
        make_targets = instrumented()
    except ImportError as error:
        if options.replay is None:
            print(f"tests.fuzz: {error}. Run it where Atheris is installed (`make setup` on Linux).", file=sys.stderr)
            return 2
        from tests.fuzz.targets import make_targets
    with tempfile.TemporaryDirectory() as base:
        targets = make_targets(Path(base))
        unknown = sorted(set(options.target) - set(targets))
        if unknown:
            print(f"tests.fuzz: no target is called {unknown[0]}. See --list.", file=sys.stderr)
            return 2
        chosen = [targets[name] for name in options.target] or list(targets.values())
        if options.list:
            return _list(chosen, options.json)
        if replayed is not None:
            return _replay(chosen[0], replayed)
        return _fuzz(chosen, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description="Coverage-guided fuzzing of everything that reads a stranger's bytes.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--target", action="append", default=[], metavar="NAME", help="this one; again for several")
    parser.add_argument("--seconds", type=int, metavar="N", help="for each target (60, if there is no --runs either)")
    parser.add_argument("--runs", type=int, metavar="N", help="inputs for each target")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of all choices (1)")
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"), metavar="DIR", help="for findings (runs/fuzz)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="give this input to the one --target")
    parser.add_argument("--list", action="store_true", help="the targets, and what each of them promises")
    parser.add_argument("--json", action="store_true", help="the result as one JSON object")
    return parser


def instrumented() -> Callable[[Path], dict[str, Target]]:
    """Import the targets with the code that they test instrumented. Raises ImportError without Atheris."""
    import atheris

    with contextlib.redirect_stderr(io.StringIO()), atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.targets import make_targets
    return make_targets


def _list(targets: Sequence[Target], as_json: bool) -> int:
    if as_json:
        print(json.dumps({target.name: target.promise for target in targets}))
    else:
        for target in targets:
            print(f"{target.name:<34} {target.promise}")
    return 0


def _replay(target: Target, data: bytes) -> int:
    try:
        target.check(data)
    except Exception:
        traceback.print_exc()
        return 1
    print(f"{target.name} keeps its promise on this input: {target.promise}")
    return 0


def _fuzz(targets: Sequence[Target], options: argparse.Namespace) -> int:
    seconds = options.seconds if options.seconds or options.runs else 60
    results: list[Result] = []
    for at, target in enumerate(targets, start=1):
        _say(f"[{at}/{len(targets)}] {target.name}", options.json)
        result = fuzz(target, runs=options.runs, seconds=seconds, seed=options.seed, out=options.out)
        results.append(result)
        if result.finding is not None:
            _say(result.text, options.json)
        if result.finding is not None and result.finding.is_file():
            _say(f"replay it: python -m tests.fuzz --target '{target.name}' --replay {result.finding}", options.json)
    found = [result for result in results if result.finding is not None]
    if options.json:
        print(json.dumps({"ok": not found, "targets": [_plain(result) for result in results]}))
    else:
        _print_table(results)
    return 1 if found else 0


def _say(text: str, as_json: bool) -> None:
    print(text, file=sys.stderr if as_json else sys.stdout, flush=True)


def _plain(result: Result) -> dict[str, object]:
    return {**asdict(result), "finding": None if result.finding is None else str(result.finding)}


def _print_table(results: Sequence[Result]) -> None:
    print(f"\n{'target':<34} {'executions':>10} {'seconds':>8} {'edges':>6}  findings")
    for result in results:
        found = "none" if result.finding is None else str(result.finding)
        print(f"{result.target:<34} {result.executions:>10} {result.seconds:>8.1f} {result.edges:>6}  {found}")
    executions, seconds = sum(each.executions for each in results), sum(each.seconds for each in results)
    findings = sum(each.finding is not None for each in results)
    print(f"{len(results)} targets, {executions} executions, {seconds:.0f} s, {findings} findings")


if __name__ == "__main__":
    sys.exit(main())
