"""A million rows are read in bounded memory, and so are they imported and looked at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROWS = 1_000_000
_TASK = '[task]\nlabels = ["bones", "organs"]\n'
_PEAK = "import re; print(int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) >> 10)"
"""The peak in MiB of this program alone: `ru_maxrss` starts at what the process held that started it."""
WAYS = {
    "import": "from secfed.models.data.importing import import_records; "
    "import_records(Path('rows.csv'), task, Path('out.jsonl'))",
    "check": "from secfed.node.data_check import examine_data; "
    "found = examine_data(Path('rows.csv'), task.task, 4); assert found.records == 1_000_000",
    "read": "from secfed.models.data import read_patients; from secfed.models.tasks import kind_for; "
    "kept = read_patients(Path('rows.csv'), kind_for(task.task, 0), 'clinic')",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large")
    with (path / "rows.csv").open("w") as file:
        file.write("patient,text,label\n")
        for number in range(ROWS):
            file.write(
                f'p-{number // 3},"Note {number}: fracture of the left bone,\nwithout ""other"" findings",bones\n'
            )
    (path / "task.toml").write_text(_TASK)
    return path


@pytest.mark.sweep
@pytest.mark.parametrize("way", WAYS)
def test_a_million_rows_need_less_than_a_gibibyte(folder: Path, way: str) -> None:
    code = (
        "from pathlib import Path; from secfed.models.data.task_file import read_task_file; "
        f"task = read_task_file(Path('task.toml')); {WAYS[way]}; {_PEAK}"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 1024
