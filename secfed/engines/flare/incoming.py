"""What peers may make this process hold at a time: streams that are arriving, and frames that wait. No nvflare.

A stream says its size in every frame. It is taken if that is no more than this process can need at the moment, and if
what is taken already leaves room; then its size is reserved until the stream has failed or has been used. Before a
study is known, and in every process that carries none, `IDLE_BYTES` is enough for all that FLARE sends by itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

FRAME_BYTES = 8 << 20
"""Of one frame. FLARE cuts streams into pieces of 1 MiB; its other messages are smaller."""
IDLE_BYTES = 4 << 20
"""Of one stream where no study is open."""
ENVELOPE_BYTES = 64 << 10
"""What FLARE's container and encoding add to our bytes."""
STREAMS_EACH = 32
"""Of one peer at a time: those under way, those that wait to be used, and those that failed a moment ago."""
PEERS_IDLE = 4
_PIECE_BYTES = 64 << 10
_PIECES_MORE = 64
"""FLARE sends pieces of 1 MiB but for the last. A stream of very small pieces would cost more than it says."""
WAITING_BYTES, WAITING_FRAMES = 64 << 20, 4096
"""Frames that were received and not yet worked on."""
UNREAD_BYTES = 192 << 20
"""Of frames that one peer has not read. FLARE sends 64 MiB of a stream before it waits for its receiver."""
FRAME_OVERHEAD = 1 << 10
_PATIENCE_SECONDS = 30.0

Key = tuple[Hashable, Hashable]
"""A stream: who sends it, and its number there."""


class TooMuch(Exception):
    """A peer sends more than this process takes."""


@dataclass(slots=True)
class _Taken:
    """A stream that was taken."""

    bytes: int
    ended: Callable[[], bool]


class Incoming:
    """Which streams are taken. For several threads."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a stream that is found ended may be dropped meanwhile
        self._taken: dict[Key, _Taken] = {}
        self._needed: Callable[[], int] = lambda: 0
        self._peers = PEERS_IDLE

    def allow(self, needed: Callable[[], int], peers: int) -> None:
        """Take what a study needs.

        Args:
            needed: the most bytes of ours that one message can have at the moment.
            peers: how many may send such a message at the same time.
        """
        with self._lock:
            self._needed, self._peers = needed, max(peers, PEERS_IDLE)

    @property
    def most_bytes(self) -> int:
        """Of one stream at the moment."""
        needed = self._needed()
        return max(IDLE_BYTES, needed + ENVELOPE_BYTES if needed else 0)

    @property
    def most_streams(self) -> int:
        """Under way at a time."""
        return STREAMS_EACH * (self._peers + 2)

    @property
    def most_bytes_together(self) -> int:
        """Of all streams at the moment: one from every peer, and as much again as two."""
        return self.most_bytes * (self._peers + 2)

    def take(self, key: Key, size: object, ended: Callable[[], bool]) -> None:
        """Reserve a stream's size, or find it reserved.

        Args:
            key: the stream.
            size: what it says.
            ended: whether nothing of it is held any longer; asked later, and often.

        Raises:
            TooMuch: it is not taken.
        """
        most = self.most_bytes
        if type(size) is not int or not 0 <= size <= most:
            raise TooMuch(f"a stream says that it has {str(size)[:40]} bytes, and here it may have {most}")
        with self._lock:
            if key in self._taken:
                return
            self._taken = {each: taken for each, taken in list(self._taken.items()) if not taken.ended()}
            of_peer = [taken.bytes for each, taken in self._taken.items() if each[0] == key[0]]
            if len(of_peer) >= STREAMS_EACH or sum(of_peer) + size > 2 * most:
                raise TooMuch(f"{len(of_peer)} streams of one peer are under way, with {sum(of_peer)} bytes")
            if len(self._taken) >= self.most_streams:
                raise TooMuch(f"{len(self._taken)} streams are under way")
            if sum(taken.bytes for taken in self._taken.values()) + size > self.most_bytes_together:
                raise TooMuch(f"streams of {self.most_bytes_together} bytes are under way")
            self._taken[key] = _Taken(size, ended)

    def holds(self, key: Key) -> bool:
        """Whether a stream was taken, and has not been found ended."""
        with self._lock:
            return key in self._taken

    def drop(self, key: Key) -> None:
        """Nothing of this stream is held any longer."""
        with self._lock:
            self._taken.pop(key, None)


def pieces_most(size: int) -> int:
    """How many pieces a stream of this size may have."""
    return _PIECES_MORE + size // _PIECE_BYTES


class Waiting:
    """Frames that were received and not yet worked on. Whoever reads from a connection waits while they are too many:
    then so does the peer."""

    def __init__(
        self, most_bytes: int = WAITING_BYTES, most_frames: int = WAITING_FRAMES, patience: float = _PATIENCE_SECONDS
    ) -> None:
        self._room = threading.Condition()
        self._most_bytes, self._most_frames, self._patience = most_bytes, most_frames, patience
        self._bytes = self._frames = 0

    def enter(self, size: int) -> None:
        """Count a frame, once there is room for it.

        Raises:
            TooMuch: there is none for a long time.
        """
        end = time.monotonic() + self._patience
        with self._room:
            while self._frames and (
                self._bytes + size + FRAME_OVERHEAD > self._most_bytes or self._frames >= self._most_frames
            ):
                if not self._room.wait(max(0.0, end - time.monotonic())) and time.monotonic() >= end:
                    raise TooMuch(f"{self._frames} frames wait already")
            self._bytes += size + FRAME_OVERHEAD
            self._frames += 1

    def leave(self, size: int) -> None:
        """A frame was worked on."""
        with self._room:
            self._bytes -= size + FRAME_OVERHEAD
            self._frames -= 1
            self._room.notify_all()
