"""Checks that the node's owner still wants to take part in a study: before each round, and again before each spend.

A study runs for days. Meanwhile the owner may tighten the policy or pause the study, or the disk may fill up. The node
then joins no round but still follows the chain, and takes part again on its own once the reason is gone. What was spent
stays spent. The owner is told the reason once; the aggregator learns the node's position in the chain, never the
reason.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dp.errors import DPError
from secfed.errors import UserError
from secfed.files.reading import read_at_most
from secfed.files.toml import TOML_BYTES_MAX
from secfed.node.policy import Policy

ROOM_BYTES: Final = 1 << 20
"""Disk space that a round needs beside its sum: ledger entries, receipts, logs."""
_SUMS_KEPT: Final = 4
"""A round's sum is written when it is signed and again when its receipt arrives, each time to SQLite's log first."""


class KeepsOut(UserError):
    """The node joins no round for now, for a reason that only its owner learns. It still follows the chain."""


class Agreed:
    """Always consents: for a run in one process, which ends before its owner would change anything."""

    def before_round(self, policy: Policy, packed_bytes: int, tell_owner: Callable[[str], None]) -> Policy:
        """Returns the policy unchanged."""
        return policy

    def before_spend(self, joined: Policy, packed_bytes: int, tell_owner: Callable[[str], None]) -> None:
        """Never objects."""


AGREED: Final = Agreed()


class Consent:
    """Checks everything that can temporarily keep a node out of a study."""

    def __init__(
        self,
        home: Path,
        policy: Path,
        *,
        unchanged: Callable[[], None],
        paused: Callable[[], str],
        allows: Callable[[], Policy],
    ) -> None:
        """
        Args:
            home: a folder on the disk that the node writes to.
            policy: the policy file.
            unchanged: raises DataChanged if the data file differs from the approved one.
            paused: when the owner paused the study; empty if it is not paused.
            allows: reads the policy and checks it against study and ledger; raises UserError or DPError.
        """
        self._home = home
        self._file = policy
        self._unchanged = unchanged
        self._paused = paused
        self._allows = allows
        self._text: bytes | None = None
        self._policy: Policy | None = None
        self._reason = ""

    def before_round(self, _: Policy, packed_bytes: int, tell_owner: Callable[[str], None]) -> Policy:
        """The current policy, if the node may join a round.

        Args:
            _: the policy used so far.
            packed_bytes: the size of a round's sum.
            tell_owner: called with a line when the node stops taking part, and when it takes part again.

        Raises:
            DataChanged: the data file has changed; the node must be reopened.
            KeepsOut: the node may not join; its owner was told why.
        """
        self._unchanged()
        return self._checked(packed_bytes, tell_owner)

    def before_spend(self, joined: Policy, packed_bytes: int, tell_owner: Callable[[str], None]) -> None:
        """Like `before_round`, for a round joined under this policy; the data was checked when the round was joined.

        Raises:
            KeepsOut: also if the policy's cohort rules have changed, because this round was joined under the old ones.
        """
        policy = self._checked(packed_bytes, tell_owner)
        if policy.cohort != joined.cohort:
            raise KeepsOut("the policy's cohort rules changed during the round", "The next round uses the new rules")

    def _checked(self, packed_bytes: int, tell_owner: Callable[[str], None]) -> Policy:
        try:
            self._check_pause()
            self._check_room(ROOM_BYTES + _SUMS_KEPT * packed_bytes)
            policy = self._policy_now()
        except KeepsOut as error:
            if error.what != self._reason:
                self._reason = error.what
                tell_owner(f"the node takes no part in the study's rounds for now; what was spent stays spent: {error}")
            raise
        if self._reason:
            self._reason = ""
            tell_owner("the node takes part in the study's rounds again")
        return policy

    def _check_pause(self) -> None:
        since = self._paused()
        if since:
            raise KeepsOut(
                f"its owner paused the study on {since}", "To end the pause, run `secfed node resume DIGEST`"
            )

    def _check_room(self, needed: int) -> None:
        try:
            free = shutil.disk_usage(self._home).free
        except OSError as error:
            raise KeepsOut(
                f"the free space of the disk of {self._home} cannot be read ({error.strerror})",
                "Check that the disk is mounted and readable",
            ) from error
        if free < needed:
            raise KeepsOut(
                f"the disk of {self._home} is nearly full, and a round needs {needed / (1 << 20):.0f} MiB",
                "Free some space there; the node then continues on its own",
            )

    def _policy_now(self) -> Policy:
        """Reads the policy file each time; checks it again only if its content changed."""
        try:
            text = read_at_most(self._file, TOML_BYTES_MAX, "", "Restore the file")
        except UserError as error:
            raise KeepsOut(error.what, error.next_step) from error
        if self._policy is None or text != self._text:
            try:
                policy = self._allows()
            except UserError as error:
                raise KeepsOut(error.what, error.next_step) from error
            except DPError as error:
                raise KeepsOut(f"the ledger and the policy do not agree: {error}", "Run `secfed doctor`") from error
            self._text, self._policy = text, policy
        return self._policy
