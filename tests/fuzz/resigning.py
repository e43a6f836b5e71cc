"""The signatures under an edited message, as its dishonest authors would make them.

Without them almost every edited message would end at a signature, and nothing behind it would be fuzzed. All keys are
in the hands of the fuzzer, which is far more than any promise allows for: here only the parsers are under test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from crypto.identity import Identity
from crypto.kdf import digest
from protocols.derivations import SEED_LABEL, SHARES_LABEL
from protocols.receipts import SIGNING_LABEL
from protocols.wire import canonical
from tests.fuzz.mutators import maps_in


def resigner(keys: Sequence[Identity]) -> Callable[[Any], Any]:
    """Signs every map in a message for whom it names, where it is one that is signed."""

    def resign(message: Any) -> Any:
        session = message.get("session", b"") if isinstance(message, dict) else b""
        for each in maps_in(message):
            if isinstance(each.get("statement"), dict):
                _sign_statement(each, keys)
            elif type(each.get("signature")) is bytes and _is_node(each.get("sender"), keys):
                _sign_map(each, keys[each["sender"]], session)
        return message

    return resign


def _sign_map(each: dict[str, Any], key: Identity, session: Any) -> None:
    """A signed message, or an envelope inside one."""
    body = canonical({name: value for name, value in each.items() if name != "signature"})
    kind = each.get("type")
    if isinstance(kind, str) and kind.isascii():
        each["signature"] = key.sign(kind, body)
    elif "sealed" in each and isinstance(session, bytes):
        each["signature"] = key.sign(SHARES_LABEL if "commitments" in each else SEED_LABEL, session, body)


def _sign_statement(each: dict[str, Any], keys: Sequence[Identity]) -> None:
    """A receipt, or an offer or echo of one."""
    content = digest("statement", canonical(each["statement"]))
    if type(each.get("signature")) is bytes and _is_node(each.get("sender"), keys):
        each["signature"] = keys[each["sender"]].sign(SIGNING_LABEL, content)
    entries = each.get("signatures")
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and _is_node(entry.get("signer"), keys):
            entry["signature"] = keys[entry["signer"]].sign(SIGNING_LABEL, content)


def _is_node(index: Any, keys: Sequence[Identity]) -> bool:
    return type(index) is int and 0 <= index < len(keys)
