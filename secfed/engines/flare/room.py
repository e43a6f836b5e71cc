"""What the jobs of a server may take of a site's disk and machine, whoever sends them. No nvflare.

A study's job is three small files and one process. A server that follows no rule can send archives that unpack to
gigabytes, and jobs without an end: each would leave a folder, and start a process that loads torch.
"""

from __future__ import annotations

import io
import re
import shutil
import zipfile
from pathlib import Path

MARK = "secfed-running"
"""In the folder of a job whose process is kept."""
JOBS_MAX = 8
"""At a time: a node takes part in that many studies at once."""
FOLDERS_KEPT = 20
"""Of jobs that are over, for their logs."""
UNPACKED_BYTES_MAX, FILES_MAX = 1 << 20, 100
_JOB = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def check_archive(archive: bytes) -> str:
    """Why a job's configuration is not unpacked; empty where it is."""
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            files = opened.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        return f"its configuration is no archive ({type(error).__name__})"
    size = sum(each.file_size for each in files)
    if len(files) > FILES_MAX or size > UNPACKED_BYTES_MAX:
        return f"its configuration has {len(files)} files of {size} bytes, and a study's has three small ones"
    return ""


def running(kit: Path) -> list[Path]:
    """The folders of the jobs whose processes are kept."""
    return [mark.parent for mark in kit.glob(f"*/{MARK}")]


def forget_old_jobs(kit: Path, kept: int = FOLDERS_KEPT) -> None:
    """Remove the folders of jobs that are over, but for the newest."""
    over = []
    for folder in kit.iterdir():
        if _JOB.fullmatch(folder.name) and folder.is_dir() and not (folder / MARK).exists():
            try:
                over.append((folder.stat().st_mtime, folder))
            except OSError:
                continue  # another one removes it
    for _, folder in sorted(over)[: max(0, len(over) - kept)]:
        shutil.rmtree(folder, ignore_errors=True)
