"""Limits what a server's jobs may use of a site's disk and machine, whoever sends them. No nvflare.

A study's job is three small files and one process. A malicious server can send archives that unpack to gigabytes, and
any number of jobs: each would leave a folder, and start a process that loads torch.
"""

from __future__ import annotations

import io
import re
import shutil
import zipfile
from pathlib import Path

MARK = "secfed-running"
"""Marks the folder of a job whose process is kept running."""
JOBS_MAX = 8
"""Jobs at a time: a node takes part in at most this many studies at once."""
FOLDERS_KEPT = 20
"""Folders of finished jobs to keep, for their logs."""
UNPACKED_BYTES_MAX, FILES_MAX = 1 << 20, 100
_JOB = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def check_archive(archive: bytes) -> str:
    """Why a job's configuration is not unpacked; empty if it is."""
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            files = opened.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        return f"its configuration is not an archive ({type(error).__name__})"
    size = sum(each.file_size for each in files)
    if len(files) > FILES_MAX or size > UNPACKED_BYTES_MAX:
        return f"its configuration has {len(files)} files of {size} bytes; a study's has three small files"
    return ""


def running(kit: Path) -> list[Path]:
    """The folders of the jobs whose processes are kept running."""
    return [mark.parent for mark in kit.glob(f"*/{MARK}")]


def forget_old_jobs(kit: Path, kept: int = FOLDERS_KEPT) -> None:
    """Remove the folders of finished jobs, except the newest."""
    over = []
    for folder in kit.iterdir():
        if _JOB.fullmatch(folder.name) and folder.is_dir() and not (folder / MARK).exists():
            try:
                over.append((folder.stat().st_mtime, folder))
            except OSError:
                continue  # another process removes it
    for _, folder in sorted(over)[: max(0, len(over) - kept)]:
        shutil.rmtree(folder, ignore_errors=True)
