"""Files that a crash must not leave half written, and folders that a refusal must not leave half made."""

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
"""The mode of what everybody may read: a run's folder is for auditors."""


def write_whole(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put these bytes in a file, new or not: after a crash it holds the old ones or the new ones, and nothing between.

    Raises:
        OSError: it cannot be written, or what is there is no plain file: a device or a folder is not replaced.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
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
    """A new file to be written piece by piece, for its owner alone: it is there once all of it is, or not at all.

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
    """Append a line to a file, new or not: all of it, or nothing. One that a crash cut short is closed off first.

    It is on disk once this returns. One process appends at a time.

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
    """Lock a file for this process, until it closes the descriptor that this gives, or ends, however that comes about.

    Returns:
        None where another process holds it.

    Raises:
        OSError: it cannot be made.
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
    """Have the names in a folder on disk, as well as what they stand for."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_to_others(mode: int) -> bool:
    """Whether anybody but its owner may use a file or a folder of this mode."""
    return bool(mode & (stat.S_IRWXG | stat.S_IRWXO))


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made, or not be written into, as far as can be seen without trying.

    Raises:
        UserError: with what is in the way.
    """
    try:
        above = next(path for path in (folder.absolute(), *folder.absolute().parents) if _exists(path))
        if not above.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{above} is a file")
        if not os.access(above, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"nobody may write into {above} here")
    except OSError as error:
        raise _unwritable(folder, error) from error


def check_file(path: Path) -> None:
    """Refuse the name of a file that cannot be written, before the work that is to be written into it.

    Raises:
        UserError: with what is in the way.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if not path.parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{path.parent} is no folder")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, "nobody may write it here")
        if _exists(path):
            path.stat()
    except FileNotFoundError:
        return  # a link to what is not there yet
    except OSError as error:
        raise UserError(
            f"the file {path} cannot be written ({error.strerror or error})", "Name another one; nothing was started"
        ) from error


def check_new(folder: Path) -> None:
    """Refuse a folder that has something in it, or that cannot be made.

    Raises:
        UserError: likewise.
    """
    check_writable(folder)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} exists and is not empty", "Choose a new folder with --out")


@contextmanager
def whole_or_gone(folder: Path) -> Iterator[None]:
    """A folder that is made in this block, with what is put into it: if the block ends early, nothing of it stays.

    What was in the folder before stays, whatever happens.

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
    """Make a folder if it is missing, and keep other processes that ask likewise out of it while this block runs.

    A folder that was made here and is empty in the end goes again.

    Raises:
        UserError: another process is in it, or it cannot be made.
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
            raise UserError(f"another process is at work in {folder}", "Wait until it has ended") from error
        yield
    finally:
        with suppress(OSError):  # not empty
            for path in missing:
                path.rmdir()
        os.close(descriptor)


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"the folder {folder} cannot be written ({error.strerror or error})",
        "Choose another with --out, or mend that; nothing was started",
    )


def _exists(path: Path) -> bool:
    """Raises OSError where a name is none to the file system; `Path.exists` does so for some errors only."""
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
    """JSON as this program writes it into files that people read, too."""
    return json.dumps(value, indent=2) + "\n"
