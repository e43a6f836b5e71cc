"""What a node adds to a round's sum: trained, waited for, booked, and only then masked, in this order."""

from __future__ import annotations

import time
from collections.abc import Callable

from crypto.randomness import NoiseSecret
from protocols.client import Client
from secfed.node import books
from secfed.node.consent import Agreed, Consent
from secfed.node.pace import hold_back
from secfed.node.parts import NodeParts
from secfed.node.policy import Policy
from secfed.rounds.chain import Chain


class Contribution:
    """Makes one node's masked inputs, round after round."""

    def __init__(
        self,
        consent: Consent | Agreed,
        on_step: Callable[[int], None],
        pause: Callable[[float], None],
        tell_owner: Callable[[str], None],
    ) -> None:
        """
        Args:
            consent: asked before each spend.
            on_step: told each local step after it.
            pause: waits for so many seconds.
            tell_owner: shows a line to the owner.
        """
        self._consent = consent
        self._on_step = on_step
        self._pause = pause
        self._tell_owner = tell_owner

    def make(
        self, client: Client, joined: Policy, parts: NodeParts, chain: Chain, check_open: Callable[[], None]
    ) -> bytes:
        """Train privately, wait for the upload's moment, commit in the ledger, then mask.

        What the ledger tells is handed on: were it written before the wait, it would tell how long training took.

        Args:
            client: the session, which wants its input.
            joined: the policy by which the round was joined.
            parts: what the node owns.
            chain: the node's; its state is trained on.
            check_open: raises LocalError once the session has ended or is overdue.

        Returns:
            The upload.

        Raises:
            LocalError: the session has ended meanwhile. Nothing is spent.
            KeepsOut: the owner wants no spend now.
            LedgerError: the ledger refuses, and nothing may leave.
        """
        asked = time.monotonic()
        round_number = client.config.context.round_number
        secret = NoiseSecret()

        def progress(step: int) -> None:
            check_open()
            self._on_step(step)

        try:
            vector = parts.trainer.contribute(chain.state, round_number, secret, progress)
        finally:
            secret.wipe()  # whoever knew it could take the noise off
        hold_back(parts.policy.pace.upload_after_seconds, asked, self._pause, self._tell_owner)
        check_open()
        self._consent.before_spend(joined, chain.shape.packed_bytes, self._tell_owner)  # the last moment to keep out
        books.commit(chain.study, parts, round_number)  # before the upload exists: no spend leaves that is not booked
        return client.submit(vector)
