"""Whether a node's owner still wants it in a study: asked before each round, and once more before each spend.

A study runs for days, and its owner may change a mind meanwhile: tighten the policy, pause the study, or leave no room
on the disk. The node then joins no round, follows the chain, and takes part again by itself once the reason is gone.
What was spent stays spent. The owner is told why, once; the aggregator hears where the node stands, and no reason.
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
"""That a round needs on the disk beside its sum: entries of the ledger, receipts, logs."""
_SUMS_KEPT: Final = 4
"""A round's sum is written down when it is signed and when its receipt comes, each time to SQLite's log first."""


class KeepsOut(UserError):
    """The node takes part in no round for now: its owner's matter. It follows the chain meanwhile."""


class Agreed:
    """Consent to everything, in the place of a `Consent`: a run in one process is over sooner than a mind changes."""

    def before_round(self, policy: Policy, packed_bytes: int, tell_owner: Callable[[str], None]) -> Policy:
        """The policy stays as it is."""
        return policy

    def before_spend(self, joined: Policy, packed_bytes: int, tell_owner: Callable[[str], None]) -> None:
        """Nothing is against it."""


AGREED: Final = Agreed()


class Consent:
    """Looks at all that may keep one node out of one study for a while."""

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
            home: the folder whose disk the node writes to.
            policy: the policy's file.
            unchanged: raises DataChanged where the data is not as it was approved.
            paused: since when the owner has paused the study; empty if not.
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
        """The policy as it is now, if the node may join a round.

        Args:
            _: the policy that it went by so far.
            packed_bytes: the size of a round's sum.
            tell_owner: gets a line when the node begins to keep out, and when it takes part again.

        Raises:
            DataChanged: the data is another; the node has to be opened anew.
            KeepsOut: its owner has been told why.
        """
        self._unchanged()
        return self._checked(packed_bytes, tell_owner)

    def before_spend(self, joined: Policy, packed_bytes: int, tell_owner: Callable[[str], None]) -> None:
        """As `before_round`, for a round that was joined under this policy. Its data was looked at then, and read.

        Raises:
            KeepsOut: also where the policy has other cohort rules by now: this round was joined under the old ones.
        """
        policy = self._checked(packed_bytes, tell_owner)
        if policy.cohort != joined.cohort:
            raise KeepsOut("the policy's cohort rules have changed in mid-round", "The next round goes by the new ones")

    def _checked(self, packed_bytes: int, tell_owner: Callable[[str], None]) -> Policy:
        try:
            self._check_pause()
            self._check_room(ROOM_BYTES + _SUMS_KEPT * packed_bytes)
            policy = self._policy_now()
        except KeepsOut as error:
            if error.what != self._reason:
                self._reason = error.what
                tell_owner(f"the node keeps out of the study's rounds, and what was spent stays spent: {error}")
            raise
        if self._reason:
            self._reason = ""
            tell_owner("the node takes part in the study's rounds again")
        return policy

    def _check_pause(self) -> None:
        since = self._paused()
        if since:
            raise KeepsOut(f"its owner has paused the study, on {since}", "`secfed node resume DIGEST` ends that")

    def _check_room(self, needed: int) -> None:
        try:
            free = shutil.disk_usage(self._home).free
        except OSError as error:
            raise KeepsOut(f"the disk of {self._home} cannot be looked at ({error.strerror})", "Mend it") from error
        if free < needed:
            raise KeepsOut(
                f"the disk of {self._home} is nearly full, and a round needs {needed / (1 << 20):.0f} MiB",
                "Make room there; the node then goes on by itself",
            )

    def _policy_now(self) -> Policy:
        """Reads the file each time, and checks what it says where that has changed."""
        try:
            text = read_at_most(self._file, TOML_BYTES_MAX, "", "Put it back")
        except UserError as error:
            raise KeepsOut(error.what, error.next_step) from error
        if self._policy is None or text != self._text:
            try:
                policy = self._allows()
            except UserError as error:
                raise KeepsOut(error.what, error.next_step) from error
            except DPError as error:
                raise KeepsOut(f"the ledger does not go with the policy: {error}", "Look at `secfed doctor`") from error
            self._text, self._policy = text, policy
        return self._policy
