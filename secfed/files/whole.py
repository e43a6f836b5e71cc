"""Writes files that a crash does not leave half written, and folders that a refusal does not leave half made."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from secfed.errors import UserError

READABLE = 0o644
"""The mode of files that everybody may read: a run's folder is for auditors."""


def write_whole(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put these bytes in a file, new or not. After a crash it holds either the old bytes or the new ones.

    Raises:
        OSError: it cannot be written, or is not a plain file: a device or a folder is not replaced.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a plain file", str(path))
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def writing_whole(path: Path) -> Iterator[BinaryIO]:
    """A new file, readable only by its owner, to write piece by piece. It appears only when all of it is written.

    Raises:
        OSError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Append a line to a file, new or not: all of it, or nothing. If a crash cut the last line short, end it first.

    The line is on disk when this returns. Only one process may append at a time.

    Raises:
        OSError: it cannot be written.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, READABLE)
    try:
        size = os.fstat(descriptor).st_size
        cut_short = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        data = memoryview((b"\n" if cut_short else b"") + line.encode() + b"\n")
        try:
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
    if not size:
        sync_folder(path.parent)


def try_lock(path: Path) -> int | None:
    """Lock a file for this process, until it closes the returned descriptor, or ends in whatever way.

    Returns:
        The descriptor; None if another process holds the lock.

    Raises:
        OSError: the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to disk: syncing a file does not write its name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_to_others(mode: int) -> bool:
    """Whether anybody but its owner may use a file or a folder of this mode."""
    return bool(mode & (stat.S_IRWXG | stat.S_IRWXO))


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written into, as far as this shows without trying.

    Raises:
        UserError: saying what is in the way.
    """
    try:
        above = next(path for path in (folder.absolute(), *folder.absolute().parents) if _exists(path))
        if not above.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{above} is a file")
        if not os.access(above, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"this user may not write into {above}")
    except OSError as error:
        raise _unwritable(folder, error) from error


def check_file(path: Path) -> None:
    """Refuse the name of a file that cannot be written, before the work whose result goes into it.

    Raises:
        UserError: saying what is in the way.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if not path.parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{path.parent} is not a folder")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, "this user may not write it")
        if _exists(path):
            path.stat()
    except FileNotFoundError:
        return  # a link to a file that does not exist yet
    except OSError as error:
        raise UserError(
            f"the file {path} cannot be written ({error.strerror or error})", "Name another file; nothing was started"
        ) from error


def check_new(folder: Path) -> None:
    """Refuse a folder that is not empty or cannot be made.

    Raises:
        UserError: saying which.
    """
    check_writable(folder)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} exists and is not empty", "Choose a new folder with --out")


@contextmanager
def whole_or_gone(folder: Path) -> Iterator[None]:
    """Make a folder in this block. If the block fails, remove what it made.

    What was in the folder before always stays.

    Raises:
        UserError: the folder, or something in it, cannot be written.
    """
    try:
        chain = [folder.absolute(), *folder.absolute().parents]
        missing = [path for path in chain if not _exists(path)]
        here = set(folder.iterdir()) if not missing else set()
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        yield
    except BaseException as error:
        for path in missing[-1:] or [each for each in folder.iterdir() if each not in here]:
            _remove(path)
        if isinstance(error, OSError):
            raise _unwritable(folder, error) from error
        raise


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make a folder if it is missing, and keep other processes that call this out of it while this block runs.

    A folder that was made here and is empty at the end is removed.

    Raises:
        UserError: another process works in it, or it cannot be made.
    """
    missing: list[Path] = []
    try:
        missing = [path for path in (folder.absolute(), *folder.absolute().parents) if not _exists(path)]
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is at work in {folder}", "Wait until it ends") from error
        yield
    finally:
        with suppress(OSError):  # not empty
            for path in missing:
                path.rmdir()
        os.close(descriptor)


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"the folder {folder} cannot be written ({error.strerror or error})",
        "Choose another with --out, or correct this; nothing was started",
    )


def _exists(path: Path) -> bool:
    """Whether there is such a path. Raises OSError if the name is not a valid one; `Path.exists` does so only for some
    errors."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def json_text(value: Any) -> str:
    """JSON as this program writes it into files that people also read."""
    return json.dumps(value, indent=2) + "\n"
