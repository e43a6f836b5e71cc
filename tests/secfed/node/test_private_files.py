"""What a node remembers is for its owner alone, from the first byte on and whatever the umask says."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dp.sqlite_file import IN_MEMORY
from secfed.node.home import MODELS
from secfed.node.store import NodeStore
from tests.homes import approve_at, make_hospitals


@contextmanager
def careless_umask() -> Iterator[None]:
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    """Mode of every file in a folder, its own models left out: the owner brings those."""
    return {
        str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode)
        for path in folder.rglob("*")
        if path.is_file() and MODELS not in path.relative_to(folder).parts
    }


def test_a_store_and_what_sqlite_puts_beside_it_are_their_owners_alone(tmp_path: Path) -> None:
    with careless_umask(), NodeStore(tmp_path / "node.sqlite") as store:
        store.join(bytes(32), 1, bytes(32))
        assert modes(tmp_path) == dict.fromkeys(("node.sqlite", "node.sqlite-wal", "node.sqlite-shm"), 0o600)


def test_a_store_is_never_there_with_another_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made with its mode, not given it afterwards."""
    made: list[int] = []
    path = tmp_path / "node.sqlite"
    watched = os.close

    def close(descriptor: int) -> None:
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            made.append(stat.S_IMODE(path.stat().st_mode))
        watched(descriptor)

    monkeypatch.setattr(os, "close", close)
    with careless_umask(), NodeStore(path):
        pass
    assert made == [0o600]


def test_a_store_in_memory_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    NodeStore(IN_MEMORY).raise_floor(bytes(32), 1)
    assert not list(tmp_path.iterdir())


def test_no_file_of_a_home_can_be_read_by_others(tmp_path: Path, base: Path) -> None:
    with careless_umask():
        hospitals = make_hospitals(tmp_path, base)
        home = hospitals.homes[0]
        approve_at(home, hospitals.study_path)
        with home.open_node(hospitals.study.digest) as node:
            node.parts.store.join(node.study.digest, 1, bytes(32))
            found = modes(home.path)
    assert {"ledger.sqlite", "node.sqlite", "node.sqlite-wal", "identity.key"} <= set(found)
    assert {name: mode for name, mode in found.items() if mode & 0o077} == {}
