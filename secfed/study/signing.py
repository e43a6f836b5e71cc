"""What an identity key signs beside a session's messages: approvals and ledger entries, each under its own label."""

from __future__ import annotations

APPROVAL_LABEL = "study approval"


LEDGER_LABEL = "ledger entry"
