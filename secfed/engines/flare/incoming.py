"""Limits on what peers can make this process hold at a time: arriving streams and waiting frames. No nvflare.

Every frame states its stream's size. A stream is accepted if that size is at most what this process can need at the
moment, and if the streams already accepted leave room. Its size then stays reserved until the stream has failed or was
used. Before a study is known, and in processes without a study, `IDLE_BYTES` is enough for everything that FLARE itself
sends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

FRAME_BYTES = 8 << 20
"""The largest frame. FLARE cuts streams into pieces of 1 MiB; its other messages are smaller."""
IDLE_BYTES = 4 << 20
"""The largest stream while no study is open."""
ENVELOPE_BYTES = 64 << 10
"""Overhead of FLARE's container and encoding."""
STREAMS_EACH = 32
"""The most streams per peer: arriving, waiting to be used, or just failed."""
PEERS_IDLE = 4
_PIECE_BYTES = 64 << 10
_PIECES_MORE = 64
"""FLARE sends pieces of 1 MiB, except the last. A stream of tiny pieces would cost more memory than its stated size."""
WAITING_BYTES, WAITING_FRAMES = 64 << 20, 4096
"""Frames that were received and not yet worked on."""
UNREAD_BYTES = 192 << 20
"""The most bytes of frames that one peer has not read. FLARE sends 64 MiB of a stream before it waits for the receiver.
"""
FRAME_OVERHEAD = 1 << 10
_PATIENCE_SECONDS = 30.0

Key = tuple[Hashable, Hashable]
"""A stream: its sender, and its number there."""


class TooMuch(Exception):
    """A peer sends more than this process takes."""


@dataclass(slots=True)
class _Taken:
    """An accepted stream."""

    bytes: int
    ended: Callable[[], bool]


class Incoming:
    """Decides which streams are accepted. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # ended streams may be removed during the loop
        self._taken: dict[Key, _Taken] = {}
        self._needed: Callable[[], int] = lambda: 0
        self._peers = PEERS_IDLE

    def allow(self, needed: Callable[[], int], peers: int) -> None:
        """Accept what a study needs.

        Args:
            needed: the most bytes of ours in one message at the moment.
            peers: the number of peers that may send such a message at the same time.
        """
        with self._lock:
            self._needed, self._peers = needed, max(peers, PEERS_IDLE)

    @property
    def most_bytes(self) -> int:
        """The largest stream at the moment."""
        needed = self._needed()
        return max(IDLE_BYTES, needed + ENVELOPE_BYTES if needed else 0)

    @property
    def most_streams(self) -> int:
        """The most streams at a time."""
        return STREAMS_EACH * (self._peers + 2)

    @property
    def most_bytes_together(self) -> int:
        """The most bytes of all streams together: one largest stream per peer, plus two."""
        return self.most_bytes * (self._peers + 2)

    def take(self, key: Key, size: object, ended: Callable[[], bool]) -> None:
        """Reserve a stream's size, if it is not reserved yet.

        Args:
            key: the stream.
            size: the size that it states.
            ended: returns whether nothing of it is held any longer; called later and often.

        Raises:
            TooMuch: the stream is refused.
        """
        most = self.most_bytes
        if type(size) is not int or not 0 <= size <= most:
            raise TooMuch(f"a stream states {str(size)[:40]} bytes, but at most {most} are accepted here")
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
        """Whether a stream was accepted and is not known to have ended."""
        with self._lock:
            return key in self._taken

    def drop(self, key: Key) -> None:
        """Release a stream's reservation: nothing of it is held any longer."""
        with self._lock:
            self._taken.pop(key, None)


def pieces_most(size: int) -> int:
    """The most pieces of a stream of this size."""
    return _PIECES_MORE + size // _PIECE_BYTES


class Waiting:
    """Frames received but not yet processed. While there are too many, the reader of a connection waits, and so does
    the peer.
    """

    def __init__(
        self, most_bytes: int = WAITING_BYTES, most_frames: int = WAITING_FRAMES, patience: float = _PATIENCE_SECONDS
    ) -> None:
        self._room = threading.Condition()
        self._most_bytes, self._most_frames, self._patience = most_bytes, most_frames, patience
        self._bytes = self._frames = 0

    def enter(self, size: int) -> None:
        """Count a frame; wait until there is room for it.

        Raises:
            TooMuch: no room became free for a long time.
        """
        end = time.monotonic() + self._patience
        with self._room:
            while self._frames and (
                self._bytes + size + FRAME_OVERHEAD > self._most_bytes or self._frames >= self._most_frames
            ):
                if not self._room.wait(max(0.0, end - time.monotonic())) and time.monotonic() >= end:
                    raise TooMuch(f"{self._frames} frames are already waiting")
            self._bytes += size + FRAME_OVERHEAD
            self._frames += 1

    def leave(self, size: int) -> None:
        """Record that a frame was processed."""
        with self._room:
            self._bytes -= size + FRAME_OVERHEAD
            self._frames -= 1
            self._room.notify_all()
