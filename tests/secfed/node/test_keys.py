"""An identity key on disk is its owner's alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crypto.identity import Identity
from secfed.errors import UserError
from secfed.node.keys import read_identity, write_identity

SEED = bytes(range(32))


def test_a_key_that_was_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    write_identity(path, Identity(SEED))
    assert read_identity(path).public == Identity(SEED).public
    assert path.read_bytes() == SEED.hex().encode() + b"\n"


def test_only_the_owner_can_read_a_written_key_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_identity(tmp_path / "identity.key", Identity(SEED))
    finally:
        os.umask(before)
    assert (tmp_path / "identity.key").stat().st_mode & 0o777 == 0o600


def test_an_existing_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    write_identity(path, Identity(SEED))
    with pytest.raises(UserError, match="never overwritten"):
        write_identity(path, Identity.generate())
    assert read_identity(path).public == Identity(SEED).public


def test_a_key_is_not_written_through_a_link_that_somebody_left(tmp_path: Path) -> None:
    (tmp_path / "identity.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError):
        write_identity(tmp_path / "identity.key", Identity(SEED))
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_can_use_is_refused_with_the_command_to_run(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.key"
    write_identity(path, Identity(SEED))
    path.chmod(mode)
    with pytest.raises(UserError, match=f"chmod 600 {path}"):
        read_identity(path)


def test_a_missing_key_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_identity(tmp_path / "identity.key")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        SEED.hex().encode()[:-1],
        SEED.hex().encode() + b"\n\n",
        SEED.hex().upper().encode(),
        b"g" * 64,
        "\N{ARABIC-INDIC DIGIT ONE}".encode() * 32,
    ],
    ids=["empty", "short", "long", "capitals", "not-hexadecimal", "foreign-digits"],
)
def test_a_malformed_key_is_refused_without_being_shown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(UserError) as caught:
        read_identity(path)
    assert "64 hexadecimal digits" in str(caught.value)
    assert not content.strip() or content.strip().decode() not in str(caught.value)
