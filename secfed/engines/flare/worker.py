"""Runs a node on its own thread: opens it, answers one request at a time, and closes it there.

Its ledger and its store belong to that thread. The caller waits for the answer, while FLARE's own threads, and so its
heartbeats, continue. A request that arrives while another is being answered is dropped, not queued: its sender would
have timed out. Errors go only to the owner; the sender gets no answer.
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
"""The data has changed, or the disk is full or broken: once that is fixed, the node continues from what is on the disk.
"""


@dataclass
class _Asked:
    """One request, and the queue for its answer."""

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
            open_node: opens the node; called on the worker's thread, and again after a failure.
            approval: the node's signature under the study.
            tell_owner: called with a line for every round, and with the reason for every error.
            debug: called with a line for every answer.
            end_process: ends the process with this code. A process without its node must not keep running.
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
        """Start opening the node, and return at once."""
        self._thread.start()

    def stop(self, patience: float) -> None:
        """Close the node once its current request is answered; wait for that at most the given seconds."""
        self._ending.set()
        self._requests.put(None)
        self._thread.join(patience)

    @property
    def most_request_bytes(self) -> int:
        """The longest valid request, in bytes; 0 while the node is not open."""
        return self.most_bytes if self._ready.is_set() else 0

    def ask(self, request: bytes) -> bytes:
        """The node's answer; empty if the node is not open, is busy, or refuses."""
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
        """If this thread ends before it is told to, the process ends as well, and is restarted with a node."""
        try:
            self._keep_open()
        finally:
            self._ready.clear()
            if not self._ending.is_set():
                self._tell_owner("the node's thread has ended: its process ends as well, and is restarted")
                self._end_process(DIED)

    def _keep_open(self) -> None:
        told = ""
        while not self._ending.is_set():
            try:
                with self._open_node() as node:
                    self._tell_owner("the node is open for the study")
                    self._serve(node)
            except Exception as error:  # whatever the error, only the owner learns it, and the process keeps running
                self._ready.clear()
                reason = _reason(error)
                if reason != told:
                    self._tell_owner(f"the node takes no part at present: {reason}")
                    told = reason
            self._ending.wait(OPENING_PAUSE_SECONDS)

    def _tell_owner(self, text: str) -> None:
        """Tell the owner. Failing to do so does not end the process either."""
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
            node.abandon()  # a session ends with its node
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
        except Exception as error:  # a refusal, or our own fault: the aggregator gets no answer to either
            self._tell_owner(f"no answer to a request after {time.monotonic() - started:.1f} s: {_reason(error)}")
        finally:
            asked.answered.set()

    def _next_request(self, node: Node) -> _Asked | None:
        """Wait for a request. A session that times out meanwhile ends at that moment: perhaps no request ever comes."""
        while True:
            try:
                return self._requests.get(timeout=node.end_overdue())
            except queue.Empty:
                continue


def _reason(error: Exception) -> str:
    """The reason for the owner: our own errors are written for people; for others, add the error's type."""
    try:
        text = str(error)
    except Exception:  # an exception that cannot be shown must not end this thread
        text = "no text"
    return text if isinstance(error, UserError | ProtocolError) else f"{type(error).__name__}: {text}"
