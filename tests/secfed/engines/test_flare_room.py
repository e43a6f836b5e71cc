"""What the jobs of a server may take of a site's disk and machine."""

from __future__ import annotations

import io
import json
import os
import uuid
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from secfed.engines.flare.room import (
    FILES_MAX,
    FOLDERS_KEPT,
    JOBS_MAX,
    MARK,
    UNPACKED_BYTES_MAX,
    check_archive,
    forget_old_jobs,
    running,
)


def archive(files: int, size: int) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as opened:
        for number in range(files):
            opened.writestr(f"config/{number}.json", bytes(size))
    return made.getvalue()


def job_folder(kit: Path, age: float, *, runs: bool = False) -> Path:
    folder = kit / str(uuid.uuid4())
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text("a line")
    if runs:
        (folder / MARK).touch()
    os.utime(folder, (1e9 - age, 1e9 - age))
    return folder


def test_an_archive_that_unpacks_to_more_than_a_study_needs_is_not_unpacked() -> None:
    assert check_archive(archive(3, 1000)) == ""
    bomb = archive(1, UNPACKED_BYTES_MAX + 1)
    assert len(bomb) < 10_000
    assert "its configuration has 1 files" in check_archive(bomb)
    assert check_archive(archive(FILES_MAX + 1, 0))
    assert "not an archive" in check_archive(b"junk")


def test_folders_of_old_jobs_are_removed_and_of_running_ones_never(tmp_path: Path) -> None:
    runs = job_folder(tmp_path, 10_000.0, runs=True)
    over = [job_folder(tmp_path, float(age)) for age in range(FOLDERS_KEPT + 30)]
    for name in ("startup", "local"):
        (tmp_path / name).mkdir()
    forget_old_jobs(tmp_path)
    left = {path for path in tmp_path.iterdir() if path.name not in ("startup", "local")}
    assert left == {runs, *over[:FOLDERS_KEPT]}
    assert (tmp_path / "startup").is_dir()
    assert running(tmp_path) == [runs]


def test_no_more_jobs_are_started_than_a_node_has_studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nvflare")
    from secfed.engines.flare import launcher
    from secfed.node.home import VARIABLE
    from secfed.node.pace import OWNERS_LOG

    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setattr(launcher, "KeptAlive", lambda start, folder, pause, tell: folder)
    monkeypatch.setattr(launcher.NodeLauncher, "get_command", lambda self, job_meta, fl_ctx: "true")
    kit = tmp_path / "kit"
    workspace = SimpleNamespace(get_root_dir=lambda: str(kit), get_run_dir=lambda job: str(kit / job))
    context: Any = SimpleNamespace(get_prop=lambda key: workspace if "workspace" in key.lower() else None)
    site = launcher.NodeLauncher()
    jobs = [job_folder(kit, 0.0, runs=True).name for _ in range(JOBS_MAX - 1)]
    assert str(site.launch_job({"job_id": "the last that may run"}, context))
    job_folder(kit, 0.0, runs=True)
    with pytest.raises(RuntimeError, match="8 jobs already run here"):
        site.launch_job({"job_id": "one too many"}, context)
    assert "8 jobs already run here" in (tmp_path / OWNERS_LOG).read_text()
    assert str(site.launch_job({"job_id": jobs[0]}, context))  # it is started again


class Kept:
    """A job's process that is kept."""

    def __init__(self) -> None:
        self.ended = False

    def terminate(self) -> None:
        self.ended = True


def test_the_process_of_an_earlier_job_makes_way_for_the_next_of_the_same_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would keep the node, and at other sites the next job's process might: too few in either job, for ever."""
    pytest.importorskip("nvflare")
    from secfed.engines.flare import launcher
    from secfed.engines.flare.settings import job_name
    from secfed.node.home import VARIABLE

    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setattr(launcher, "KeptAlive", lambda *args: Kept())
    monkeypatch.setattr(launcher.NodeLauncher, "get_command", lambda self, job_meta, fl_ctx: "true")
    kit = tmp_path / "kit"
    workspace = SimpleNamespace(
        get_root_dir=lambda: str(kit),
        get_run_dir=lambda job: str(kit / job),
        get_job_meta_path=lambda job: str(kit / job / "meta.json"),
    )

    def start_app(job: str, job_meta: dict[str, Any]) -> str:
        started[job] = site.launch_job(job_meta, context)
        return ""

    engine = SimpleNamespace(start_app=start_app)
    context: Any = SimpleNamespace(
        get_prop=lambda key: workspace if "workspace" in key.lower() else None, get_engine=lambda: engine
    )
    started: dict[str, Any] = {}
    site = launcher.NodeLauncher()
    first = site.launch_job({"job_id": "first", "name": job_name(bytes(32))}, context)
    other = site.launch_job({"job_id": "other", "name": job_name(b"x" * 32)}, context)
    site.launch_job({"job_id": "no study's", "name": "hello"}, context)
    assert not first.ended
    second = site.launch_job({"job_id": "second", "name": job_name(bytes(32))}, context)
    assert first.ended
    assert not second.ended
    assert not other.ended

    # And after a restart of the site, which takes up what ran: the one that was submitted last is the one that stays.
    jobs = sorted(job_folder(kit, 0.0, runs=True).name for _ in range(3))
    for job, submitted in zip(jobs, (3.0, 1.0, 2.0), strict=True):
        meta = {"job_id": job, "name": job_name(bytes(32)), "submit_time": submitted}
        (kit / job / "meta.json").write_text(json.dumps(meta))
    site = launcher.NodeLauncher()
    site._take_up(context)
    assert [started[job].ended for job in jobs] == [False, True, True]
