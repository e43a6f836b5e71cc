"""A node on a thread of its own: it is opened there, answers there, one request at a time, and is closed there.

Its ledger and its store belong to that thread. Whoever asks waits for the answer; FLARE's own threads, and so its
heartbeats, go on meanwhile. A request that comes while another is being answered gets silence, not a queue: by the time
its turn came nobody would wait for it. What goes wrong is told to the owner alone, and the answer is silence.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from dp.errors import LedgerUnavailable
from protocols.errors import ProtocolError
from secfed.engines.flare.memory import give_back, leave_out_what_is_there
from secfed.errors import UserError
from secfed.node.answers import answer_of, most_bytes
from secfed.node.consent import KeepsOut
from secfed.node.data_watch import DataChanged
from secfed.node.node import Node
from secfed.node.owners_log import RoundLines

OPENING_PAUSE_SECONDS = 5.0
"""Between two attempts to open the node: an earlier process may still hold it."""
DIED = 70
"""Exit code of a process whose node's thread has ended: `secfed.engines.flare.launcher` starts it again."""
_OPEN_ANEW = (DataChanged, LedgerUnavailable, sqlite3.Error, OSError)
"""The data is another, or the disk is full or broken: the node goes on from what is on the disk, once that will do."""


@dataclass
class _Asked:
    """One request, and where its answer goes."""

    request: bytes
    answer: bytes = b""
    answered: threading.Event = field(default_factory=threading.Event)


class NodeWorker:
    """Runs one node for one study."""

    def __init__(
        self,
        open_node: Callable[[], AbstractContextManager[Node]],
        approval: Callable[[], bytes],
        tell_owner: Callable[[str], None],
        *,
        debug: Callable[[str], None] = lambda text: None,
        end_process: Callable[[int], object] = os._exit,
    ) -> None:
        """
        Args:
            open_node: opens the node; called on the worker's thread, and again after it failed.
            approval: the node's signature under the study.
            tell_owner: gets a line for every round, and the reason whenever something goes wrong.
            debug: gets a line for every answer.
            end_process: ends the process with this code. A process whose node is gone must not live on.
        """
        self._open_node = open_node
        self._approval = approval
        self._tell, self._debug = tell_owner, debug
        self._end_process = end_process
        self._ending = threading.Event()
        self._busy = threading.Lock()
        self._requests: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._ready = threading.Event()
        self.most_bytes = 0
        self._thread = threading.Thread(target=self._run, name="secfed node", daemon=True)

    def start(self) -> None:
        """Begin to open the node, and return at once."""
        self._thread.start()

    def stop(self, patience: float) -> None:
        """Close the node once its present request is answered; wait for that at most so many seconds."""
        self._ending.set()
        self._requests.put(None)
        self._thread.join(patience)

    @property
    def most_request_bytes(self) -> int:
        """A longer request is none. 0 while the node is not open."""
        return self.most_bytes if self._ready.is_set() else 0

    def ask(self, request: bytes) -> bytes:
        """The node's answer; empty while it is not open, or busy, and when it refuses."""
        if not self._ready.is_set() or self._ending.is_set() or not self._busy.acquire(blocking=False):
            return b""
        try:
            asked = _Asked(request)
            self._requests.put(asked)
            while not asked.answered.wait(1.0):
                if not self._thread.is_alive():
                    return b""
            return asked.answer
        finally:
            self._busy.release()

    def _run(self) -> None:
        """Whatever ends this thread before it is told to, ends the process: it is started again, with a node."""
        try:
            self._keep_open()
        finally:
            self._ready.clear()
            if not self._ending.is_set():
                self._tell_owner("the node's thread has ended: its process ends, too, and is started again")
                self._end_process(DIED)

    def _keep_open(self) -> None:
        told = ""
        while not self._ending.is_set():
            try:
                with self._open_node() as node:
                    self._tell_owner("the node is open for the study")
                    self._serve(node)
            except Exception as error:  # whatever it is, it is the owner's matter alone, and no reason to end
                self._ready.clear()
                reason = _reason(error)
                if reason != told:
                    self._tell_owner(f"the node takes no part for now: {reason}")
                    told = reason
            self._ending.wait(OPENING_PAUSE_SECONDS)

    def _tell_owner(self, text: str) -> None:
        """Tell the owner. What cannot be told is no reason to end, either."""
        with contextlib.suppress(Exception):
            self._tell(text)

    def _serve(self, node: Node) -> None:
        approval, lines = self._approval(), RoundLines(self._tell_owner)
        self.most_bytes = most_bytes(node)
        leave_out_what_is_there()
        self._ready.set()
        try:
            while (asked := self._next_request(node)) is not None:
                self._answer(node, approval, asked, lines)
                give_back()
        finally:
            self._ready.clear()
            node.abandon()  # a session does not outlive its node
            lines.end()

    def _answer(self, node: Node, approval: bytes, asked: _Asked, lines: RoundLines) -> None:
        started = time.monotonic()
        try:
            asked.answer = answer_of(node, approval, asked.request)
            seconds = time.monotonic() - started
            if asked.answer:
                self._debug(f"answered in {seconds:.3f} s")
            lines.answered(node.session, seconds)
        except _OPEN_ANEW:
            raise
        except KeepsOut:
            pass  # its owner has been told
        except Exception as error:  # a refusal, or a fault of ours: to the aggregator both are silence
            self._tell_owner(f"no answer to a request after {time.monotonic() - started:.1f} s: {_reason(error)}")
        finally:
            asked.answered.set()

    def _next_request(self, node: Node) -> _Asked | None:
        """Wait for it. A session whose time is over meanwhile ends at that moment: perhaps nothing more ever comes."""
        while True:
            try:
                return self._requests.get(timeout=node.end_overdue())
            except queue.Empty:
                continue


def _reason(error: Exception) -> str:
    """For the owner: our own errors are written for people; of others the kind is said, too."""
    try:
        text = str(error)
    except Exception:  # an exception that cannot be shown must not end the thread that met it
        text = "no text"
    return text if isinstance(error, UserError | ProtocolError) else f"{type(error).__name__}: {text}"
