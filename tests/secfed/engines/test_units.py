"""The units of systemd, as docs/deploy.md describes them, and what a program sets where it is started without them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

UNITS = sorted((Path(__file__).parents[3] / "docs" / "systemd").glob("*.service"))


def settings(unit: Path) -> dict[str, str]:
    lines = [line.partition("=") for line in unit.read_text().splitlines() if line and line[0] not in "#["]
    return {name: value for name, _, value in lines}


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_service_has_a_bound_of_memory_and_leaves_no_image_of_it(unit: Path) -> None:
    assert settings(unit)["MemoryMax"].removesuffix("G").isdigit()
    assert settings(unit)["LimitCORE"] == "0"


def test_there_is_a_unit_for_the_node_and_one_for_the_aggregator() -> None:
    assert [unit.stem for unit in UNITS] == ["secfed-aggregator", "secfed-node"]


def test_a_program_that_is_started_by_hand_leaves_no_image_of_its_memory_either(tmp_path: Path) -> None:
    pytest.importorskip("nvflare")
    script = (
        "import sys; from pathlib import Path\n"
        "from secfed.engines.flare import kit_watch, kits, processes\n"
        "kits.narrow = lambda kit: None\n"
        "kit_watch.begin = lambda *_: None\n"
        "processes.is_server = lambda kit: False\n"
        "show = 'import resource; print(resource.getrlimit(resource.RLIMIT_CORE))'\n"
        "processes.command = lambda kit: [sys.executable, '-c', show]\n"
        "processes.environment = lambda kit, home: {}\n"
        "processes.become(Path(sys.argv[1]), Path(sys.argv[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(0, 0)", done.stderr
