"""The promises that must hold over the rounds of a study, whatever the attacker did.

1. A node signs at most one statement for a round number, and joins a round number once.
2. At most one receipt for a round number; all receipts lie on one chain that begins with the study.
3. Nodes at the same receipt hold the same state.
4. A node trains on the state of its session, and signs only statements that follow its last receipt.
5. Behind every receipt is an honest node that has seen and checked the sum itself.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from audits.exploration.search import Fact, Facts, Promises
from audits.exploration.studies import Studies


class StudyPromises(Promises):
    """The promises of a whole study."""

    def __init__(self, studies: Studies, facts: Facts) -> None:
        super().__init__(
            facts,
            (
                (("round",), self._joined_twice),
                (("signed",), self._signed_twice),
                (("signed",), self._no_chain),
                (("parted",), self._two_states),
                (("strayed",), self._strayed),
                (("signed", "checked"), self._unchecked),
            ),
        )
        self._studies = studies

    def _joined_twice(self, facts: list[Fact]) -> str | None:
        joined = [(node, number) for _, node, number, _, _ in facts]
        for node, number in joined:
            if joined.count((node, number)) > 1:
                return f"node {node} joined round {number} twice"
        return None

    def _signed_twice(self, facts: list[Fact]) -> str | None:
        signed = [(node, statement.round_number) for _, node, statement in facts]
        for node, number in signed:
            if signed.count((node, number)) > 1:
                return f"node {node} signed two statements of round {number}"
        return None

    def _no_chain(self, facts: list[Fact]) -> str | None:
        receipts = sorted(self._receipts(facts), key=lambda statement: statement.round_number)
        head, number = self._studies.study.digest, 0
        for statement in receipts:
            if statement.round_number == number:
                return f"two receipts of round {number}"
            if statement.predecessor != head:
                return f"the receipts of rounds {number} and {statement.round_number} are not on one chain"
            head, number = statement.digest(), statement.round_number
        return None

    def _two_states(self, facts: list[Fact]) -> str | None:
        for _, node, head in facts:
            return f"node {node} holds another state than its receipts lead to, at {head.hex()[:12]}"
        return None

    def _strayed(self, facts: list[Fact]) -> str | None:
        for _, node, what in facts:
            return f"node {node} {what} another state than its session's"
        return None

    def _unchecked(self, facts: list[Fact]) -> str | None:
        checked = {fact[2] for fact in facts if fact[0] == "checked"}
        for statement in self._receipts([fact for fact in facts if fact[0] == "signed"]):
            if statement not in checked:
                return f"a receipt of round {statement.round_number} whose sum no honest node has checked"
        return None

    def _receipts(self, facts: list[Fact]) -> list[Any]:
        """Statements with a quorum of signers, all corrupt survivors among them."""
        signers: dict[Any, set[int]] = defaultdict(set)
        for _, node, statement in facts:
            signers[statement].add(node)
        rules, corrupt = self._studies.rules, self._studies.corrupt
        return [
            statement
            for statement, honest in signers.items()
            if len(honest | corrupt.intersection(statement.survivors)) >= rules.quorum(len(statement.cohort))
        ]
