"""FLARE's own logs, with the configuration of our kits and with its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("nvflare")

from secfed.bounded_log import BURST, FILE_BYTES, FILES_KEPT
from secfed.engines.flare.logs import BoundedAuditor

FLOOD = """
import copy, logging, sys
from nvflare.fuel.utils.log_utils import apply_log_config, default_log_dict
from secfed.engines.flare.logs import log_settings
apply_log_config(log_settings() if sys.argv[2] == "ours" else copy.deepcopy(default_log_dict), sys.argv[1])
log = logging.getLogger("nvflare.fuel.f3.something")
for number in range(20_000):
    log.error(f"junk {number}: " + "x" * 1000)
log.warning("another line")
"""


def flood(folder: Path, whose: str) -> int:
    """Bytes that it leaves on the disk."""
    folder.mkdir()
    command = [sys.executable, "-c", FLOOD, str(folder), whose]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True)
    assert done.stderr == ""
    assert "another line" in (folder / "log.txt").read_text()
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.sweep
def test_a_flood_of_lines_leaves_little_in_a_kit_of_ours_and_all_of_it_in_flares(tmp_path: Path) -> None:
    assert flood(tmp_path / "ours", "ours") < (BURST + 10) * 1200
    assert flood(tmp_path / "flares", "flares") > 50e6


def test_flares_record_of_commands_is_bounded_and_tells_them_apart(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    auditor = BoundedAuditor(str(path))
    for number in range(5000):
        assert auditor.add_event("operator", "list_jobs", ref=str(number))
        auditor.add_job_event(f"job {number}", task_name="anything")
    auditor.add_event("operator", "abort_job")
    assert len(path.read_text().splitlines()) <= 2 * BURST + 10
    assert "[A:abort_job]" in path.read_text()
    assert BURST * 1200 < FILE_BYTES * FILES_KEPT
    auditor.close()
    assert auditor.add_event("operator", "late") == ""
