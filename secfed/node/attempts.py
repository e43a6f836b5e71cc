"""How often a node takes part from one state of the model, and who may allow more: its owner, once it has stopped.

A round that fails leaves the state as it was. The next one starts from the same state, perhaps with other survivors.
The differences between such sums are about single sites, and their noise averages out over repetitions. What each round
costs the patients is booked every time. So a node joins three rounds on one state, then stops and tells its owner.

A site whose upload does not fit its tag makes round after round fail, and nobody can tell this from a fault of the
aggregator (docs/wrong-sums.md). To find out takes rounds with other survivors. So owners can allow more attempts: only
on the state at which their node has stopped, never in advance, and up to a bound. The next state has three again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from protocols.client import Client
from protocols.errors import LocalError, RemoteError
from secfed.node.store import NodeStore
from secfed.rounds.channel import ATTEMPTS_MAX
from secfed.study.manifest import Study

MORE_ATTEMPTS_MAX: Final = 9
"""The most that its owner can allow on one state beyond the usual ones, in total."""
_NAMES_MAX = 10


class Attempts:
    """One node's count in one study."""

    def __init__(self, study: Study, store: NodeStore, tell_owner: Callable[[str], None]) -> None:
        self._study = study
        self._store = store
        self._tell_owner = tell_owner
        self._told = b"", 0

    def check(self, state: bytes) -> None:
        """Refuse to join another round on a state that has used up its attempts. The owner is told once.

        Raises:
            LocalError: this node stops here.
        """
        joined = self._store.attempts(self._study.digest, state)
        if joined < allowed_on(self._store, self._study.digest, state):
            return
        if self._told != (state, joined):
            self._told = state, joined
            self._tell_owner(
                f"this node has joined {joined} rounds on one state of the model, and none has its receipt. Ask the "
                f"other sites and the operator what they were told of these rounds. {self._how_to_go_on()}"
            )
        raise LocalError(
            f"round after round fails on one state of the model; this node joined {joined} and stops here until its "
            "owner allows more attempts (`secfed node allow-attempts`)"
        )

    def sum_refused(self, error: RemoteError, client: Client) -> None:
        """Tell the owner that a sum does not fit its tags, and that nobody can tell whose fault it is."""
        if not error.untraceable:
            return
        names = [self._study.roster[node].name for node in client.survivors]
        whom = ", ".join(names) if len(names) <= _NAMES_MAX else f"the {len(names)} survivors"
        last = stopped_at(self._store, self._study.digest) is not None
        self._tell_owner(
            f"round {client.config.context.round_number}: the published sum is not what the survivors sent: the "
            f"fault of the aggregator or of one of the survivors ({whom}). Either it was changed, or one of them "
            "uploaded what does not fit its tag; nobody can tell from it which. This node signed nothing, and the "
            "round's spend counts. Compare with the other sites, and have the operator leave sites out until it "
            f"stops (docs/wrong-sums.md).{' ' + self._how_to_go_on() if last else ''}"
        )

    def _how_to_go_on(self) -> str:
        command = f"secfed node allow-attempts {self._study.digest.hex()[:16]}"
        return (
            "This node joins no more rounds on this state: docs/wrong-sums.md says how a site that spoils sums is "
            f"found, and `{command}` allows more attempts"
        )


def allowed_on(store: NodeStore, study: bytes, state: bytes) -> int:
    """How many rounds a node joins on a state."""
    return ATTEMPTS_MAX + store.more_attempts(study, state)


def stopped_at(store: NodeStore, study: bytes) -> bytes | None:
    """The state on which the node joins no more rounds; None while it goes on."""
    state = store.tried_state(study)
    if state is None or store.attempts(study, state) < allowed_on(store, study, state):
        return None
    return state


def allow_attempts(store: NodeStore, study: bytes, more: int) -> int:
    """Allow more attempts on the state at which the node has stopped. For its owner; the node may be running.

    Args:
        store: the node's.
        study: the study's digest.
        more: how many, from 1.

    Returns:
        How many are allowed on this state beyond the usual ones, in total.

    Raises:
        ValueError: the node has not stopped, or that is more than may be allowed on one state.
    """
    state = stopped_at(store, study)
    if state is None:
        raise ValueError("this node has not stopped in this study: there is nothing to allow")
    before = store.more_attempts(study, state)
    if not 1 <= more <= MORE_ATTEMPTS_MAX - before:
        left = MORE_ATTEMPTS_MAX - before
        raise ValueError(
            f"{more} more attempts cannot be allowed on this state: {left} of {MORE_ATTEMPTS_MAX} are left, which an "
            f"owner may allow beyond the usual {ATTEMPTS_MAX}"
        )
    store.allow_attempts(study, state, more)
    return before + more
