"""A node's identity key on disk: an Ed25519 seed as 64 hexadecimal digits and a newline, readable only by its owner.

The file has mode 0600 from its first byte and is never overwritten. Like OpenSSH, this module refuses a file that
others can read, because somebody may have read the key. Errors never contain the key.
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
            f"the identity key {path} already exists and is never overwritten",
            "Keep using it. If the organisation really needs a new identity, move the old key away first",
        ) from error
    except OSError as error:
        raise UserError(
            f"the identity key {path} cannot be written ({error.strerror})",
            "Check the folder's permissions",
        ) from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(identity.seed().hex().encode() + b"\n")


def read_identity(path: Path) -> Identity:
    """Read an identity key.

    Raises:
        UserError: the file is missing, open to users other than its owner, or not an identity key.
    """
    try:
        with path.open("rb") as file:
            # Check the permissions of the opened file, so that nobody can swap the file in between.
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise UserError(
            f"the identity key {path} cannot be read ({error.strerror})",
            "Check the site's folder. The key is made once, at enrolment",
        ) from error
    if open_to_others(mode):
        raise UserError(
            f"the identity key {path} is open to users other than its owner (mode {stat.S_IMODE(mode):04o})",
            f"Run `chmod 600 {path}`. If somebody may have read the key, enrol a new one",
        )
    if not _KEY_PATTERN.fullmatch(raw):
        raise UserError(
            f"{path} is not an identity key: it must hold exactly 64 hexadecimal digits",
            "Restore the key from the organisation's backup, or enrol a new key",
        )
    return Identity(bytes.fromhex(raw.decode()))
