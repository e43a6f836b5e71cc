"""Searches by kills, run as a person runs them: in a process of their own, for they fork, and pytest's has threads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def run_kills(module: str, *arguments: str) -> tuple[int, str]:
    """Exit code and output of `python -m MODULE`: 0, or 1 with a finding. Skips where steps cannot be counted."""
    command = [sys.executable, "-m", module, *arguments]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert not done.stderr, done.stderr
    if "cannot count calls" in done.stdout:
        pytest.skip("system calls are counted on Linux on x86-64, where processes may be traced")
    return done.returncode, done.stdout
