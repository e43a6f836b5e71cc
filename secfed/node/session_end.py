"""A session ends by itself after a while, even if no further message comes. Its secrets are wiped with it.

The aggregator decides when it sends what: without this, it could keep a node's seeds in memory for as long as it liked.
The owner's policy sets the time, counted from the round's opening (`pace.session_ends_after_seconds`). The clock is a
parameter. The node checks the time at every request, and an engine that waits for requests checks when the time is up
(`Node.end_overdue`).
"""

from __future__ import annotations

from collections.abc import Callable

from protocols.client import Client
from protocols.errors import LocalError
from protocols.steps import State

_ENDED = (State.CLOSED, State.FAILED)


class SessionEnd:
    """Ends the sessions of one node, one after the other."""

    def __init__(self, seconds: float, clock: Callable[[], float], tell_owner: Callable[[str], None]) -> None:
        """
        Args:
            seconds: how long a session may last.
            clock: seconds since any fixed moment; never goes back.
            tell_owner: shows a line to the owner.
        """
        self.seconds = seconds
        """Of the sessions that begin from now on."""
        self._clock = clock
        self._tell_owner = tell_owner
        self._ends = 0.0

    def begin(self) -> None:
        """A session begins."""
        self._ends = self._clock() + self.seconds

    def look(self, session: Client | None) -> float | None:
        """End the session if its time is over. Gives the seconds that it has left; None where none is open now."""
        if session is None or session.state in _ENDED:
            return None
        left = self._ends - self._clock()
        if left > 0:
            return left
        session.abandon()
        self._tell_owner(
            f"round {session.config.context.round_number}: its session was open for {self.seconds:g} s and was not "
            "finished. It has ended, and its secrets are gone: this node is absent from the rest of the round. If "
            "rounds take longer, raise pace.session_ends_after_seconds in policy.toml; else ask the aggregator's "
            "operator why"
        )
        return None

    def check(self, session: Client) -> None:
        """Refuse to go on in a session that has ended. Called while the node works, and before it spends.

        Raises:
            LocalError: the session's time is over, or it has ended.
        """
        if self.look(session) is None:
            raise LocalError("the session has ended: its time was over before its answer was ready")
