"""A short, guided run of every target, and proof that such a run finds what it is there to find.

The real campaign is `make fuzz`. Here each target gets a fixed number of inputs and a fixed seed.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RUNS = 120
HAS_ATHERIS = importlib.util.find_spec("atheris") is not None
needs_atheris = pytest.mark.skipif(not HAS_ATHERIS, reason="Atheris is not made for this platform or Python")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )


@pytest.mark.sweep
@needs_atheris
def test_no_target_breaks_its_promise_in_a_short_guided_run(tmp_path: Path) -> None:
    ended = run("-m", "tests.fuzz", "--runs", str(RUNS), "--json", "--out", str(tmp_path / "found"))
    assert ended.returncode == 0, ended.stderr
    results = json.loads(ended.stdout)["targets"]
    assert len(results) > 60
    for result in results:
        assert result["executions"] >= RUNS, result
        assert result["edges"] > 0, f"{result['target']} is not guided: its parser is not instrumented"


PLANTED: dict[str, tuple[str, str, str]] = {
    "an exception that is not declared": (
        "message/agree",
        """
from protocols import wire
decode = wire.IndexSet.decode
def planted(self, value, limits, source):
    if type(value) is not list:
        raise KeyError("planted")
    return decode(self, value, limits, source)
wire.IndexSet.decode = planted
""",
        "KeyError: 'planted'",
    ),
    "a byte behind the end": (
        "cbor",
        """
from protocols import cbor
cbor.read = lambda data, sender: cbor._Reader(data, sender).item(cbor.MAX_DEPTH)
""",
        "PromiseBroken: another encoding than the canonical one",
    ),
    "an answer that never comes": (
        "tag",
        """
from protocols import checksum
from tests.fuzz import running
running.INPUT_SECONDS = 1
def planted(data):
    while data != bytes(8):
        pass
    return 0
checksum.decode_tag = planted
""",
        "libFuzzer: timeout",
    ),
    "memory for as much as a length claims": (
        "cbor",
        """
from protocols import cbor
take = cbor._Reader._take
def planted(self, count):
    bytearray(min(count, 1 << 40))
    return take(self, count)
cbor._Reader._take = planted
""",
        "MemoryError",
    ),
    "another is blamed": (
        "aggregator/masked input",
        """
from protocols import aggregator
decode = aggregator.decode
aggregator.decode = lambda kind, data, limits, sender: decode(kind, data, limits, (sender + 1) % 5)
""",
        "PromiseBroken: another than the sender is blamed",
    ),
    "secrets stay behind": (
        "client/masked",
        """
from protocols.client import Client
from protocols.steps import State
def planted(self):
    self.state = State.FAILED
Client.abandon = planted
""",
        "PromiseBroken: a refusal that leaves",
    ),
    "evidence changes unseen": (
        "verify/signatures.json",
        """
from secfed.verify import approval
class Anything:
    def encode(self):
        return self
    def __ne__(self, other):
        return False
approval.signatures_text = lambda study, data, found: Anything()
""",
        "PromiseBroken: a changed file holds",
    ),
}
PLANT_AND_FUZZ = """
import json, os, sys, tempfile
from pathlib import Path
from tests.fuzz.__main__ import instrumented
from tests.fuzz.running import fuzz
planted, out = json.loads(sys.argv[1]), Path(sys.argv[2])
with tempfile.TemporaryDirectory() as base:
    targets = instrumented()(Path(base))
    for name, (target, defect, _) in planted.items():
        if os.fork() == 0:  # what is planted stays in the child
            exec(defect, {})
            result = fuzz(targets[target], runs=3000, seconds=60, seed=1, out=out / name)
            found = {"name": name, "finding": str(result.finding), "text": result.text}
            (out / f"{name}.json").write_text(json.dumps(found))
            os._exit(0)
        os.wait()
"""


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every planted defect, fuzzed."""
    out = tmp_path_factory.mktemp("planted")
    ended = run("-c", PLANT_AND_FUZZ, json.dumps(PLANTED), str(out))
    assert ended.returncode == 0, ended.stderr
    return out


@pytest.mark.sweep
@needs_atheris
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_defect_is_found_and_its_input_kept(planted: Path, name: str) -> None:
    target, _, sign = PLANTED[name]
    found: dict[str, Any] = json.loads((planted / f"{name}.json").read_text())
    assert sign in found["text"]
    assert Path(found["finding"]).is_file()
    # The parser as it is keeps its promise on that input, and says so.
    if name == "evidence changes unseen":
        again = run("-m", "tests.fuzz", "--target", target, "--replay", found["finding"])
        assert again.returncode == 0, again.stderr
        assert "keeps its promise" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--replay", __file__], "name the one target"),
        (["--target", "tag", "--replay", "/nowhere"], "cannot be read"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_code_2(arguments: list[str], said: str) -> None:
    ended = run("-m", "tests.fuzz", *arguments)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1
