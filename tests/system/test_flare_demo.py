"""A demo over FLARE that is stopped by hand ends every process that it started, says so, and can be started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nvflare")

from tests.flare import ROOT
from tests.soak import left_of

pytestmark = [pytest.mark.flare, pytest.mark.timeout(900)]


def demo(out: Path) -> subprocess.Popen[str]:
    """`secfed federation demo` in a session of its own, as a terminal gives it."""
    command = [
        sys.executable,
        "-c",
        "from secfed.cli import main; main()",
        "federation",
        "demo",
        "--out",
        str(out),
        "--json",
    ]
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def until(running: subprocess.Popen[str], kind: str) -> dict[str, Any]:
    """The first event of a kind."""
    assert running.stdout is not None
    for line in running.stdout:
        event = json.loads(line)
        if event["event"] == kind:
            return event
    raise AssertionError(f"the demo has ended: {running.communicate()[1]}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_stopped_leaves_no_process_and_can_be_started_again(tmp_path: Path, number: int) -> None:
    out = tmp_path / "demo"
    running = demo(out)
    until(running, "stage")
    assert len(left_of(out)) > 5, "a server, its sites, and their jobs"
    running.send_signal(number)
    told = "".join(running.communicate(timeout=60))
    assert running.returncode != 0
    assert "the demo was stopped, and all its processes ended" in told
    assert "Traceback" not in told
    assert left_of(out) == []
    again = demo(out)
    try:
        assert until(again, "note")
    finally:
        again.send_signal(number)
        again.communicate(timeout=60)
    assert left_of(out) == []
