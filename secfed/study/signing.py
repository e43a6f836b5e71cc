"""What an identity key signs beside a session's messages: approvals and ledger entries, each under its own label."""

from __future__ import annotations

from collections.abc import Callable

from crypto.identity import Identity, PublicIdentity

APPROVAL_LABEL = "study approval"


LEDGER_LABEL = "ledger entry"


def entry_signer(identity: Identity) -> Callable[[bytes], bytes]:
    """What a ledger signs its entries with."""
    return lambda entry: identity.sign(LEDGER_LABEL, entry)


def entry_check(identity: PublicIdentity) -> Callable[[bytes, bytes], bool]:
    """Whether a signature under a ledger's entry is this identity's; takes the entry, then the signature."""
    return lambda entry, signature: identity.verifies(signature, LEDGER_LABEL, entry)
