"""A node's identity key on disk: an Ed25519 seed as 64 hexadecimal digits and a newline, for its owner alone.

The file is made with mode 0600 from its first byte and is never overwritten; a file that others can read is
refused, as OpenSSH does, because a key that others could read may have been read. Errors never hold the key.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from crypto.identity import Identity
from secfed.errors import UserError
from secfed.files.whole import open_to_others

_KEY_FILE_BYTES = 65
_KEY_PATTERN = re.compile(rb"[0-9a-f]{64}\n?")


def write_identity(path: Path, identity: Identity) -> None:
    """Write the seed of `identity` to a new file that only its owner can read.

    Raises:
        UserError: the file exists already, or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise UserError(
            f"the identity key {path} exists already and is not overwritten",
            "Keep using it, or move it away first if the organisation really gets a new identity",
        ) from error
    except OSError as error:
        raise UserError(
            f"the identity key {path} cannot be written ({error.strerror})",
            "Check the folder and its permissions",
        ) from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(identity.seed().hex().encode() + b"\n")


def read_identity(path: Path) -> Identity:
    """Read an identity key.

    Raises:
        UserError: the file is missing, readable by others than its owner, or no identity key.
    """
    try:
        with path.open("rb") as file:
            # The permissions are those of the opened file, so that nobody can swap it in between.
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise UserError(
            f"the identity key {path} cannot be read ({error.strerror})",
            "Check the site's folder: the key is made once, when the organisation is enrolled",
        ) from error
    if open_to_others(mode):
        raise UserError(
            f"the identity key {path} can be used by others than its owner (mode {stat.S_IMODE(mode):04o})",
            f"Run `chmod 600 {path}`, and enrol a new key if somebody may have read this one",
        )
    if not _KEY_PATTERN.fullmatch(raw):
        raise UserError(
            f"{path} is no identity key: it does not hold exactly 64 hexadecimal digits",
            "Restore it from the organisation's own backup, or enrol a new key",
        )
    return Identity(bytes.fromhex(raw.decode()))
