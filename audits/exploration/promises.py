"""The promises of protocols/SPEC.md as code: they must hold in every state of a session, whatever the attacker did.

1. No secret outlives its use, and a session that has refused a message does nothing more.
2. No honest node releases both kinds of share for one peer, and nobody can rebuild both secrets of an honest node.
3. At most one pair of sets (U2, U3) gets a quorum, and at most one statement.
4. Without a colluder among the sharers, a node signs only the true sum.
5. The vectors and tags that nodes publish in one round number can be combined into something free of unknown masks in
   at most one way: the sum over all honest survivors, with the tag of that sum. An input is `x` and a list of streams,
   a tag is `<K, x> + k_0` and a list of masks. For a list of either, the combinations in which all unknown masks cancel
   are the left null space of the matrix (inputs by masks). Its entries are +1, 0 and -1 with at most two in a column,
   so its rank is the same over every ring. Vectors and tags share no mask, so a combination of both is a combination of
   each. Tags under different keys add up to more than the tag of a sum.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

from audits.exploration.pool import Member, Pool
from audits.exploration.search import Fact, Facts, Promises
from audits.exploration.symbols import Mask, Masks
from crypto.kdf import digest
from protocols import derivations
from protocols.masking import MaskedSum

_Owners: TypeAlias = set[tuple[bytes, int]]
"""(session, owner) of secrets that the attacker can rebuild."""


class SessionPromises(Promises):
    """The promises of one session."""

    def __init__(self, pool: Pool, facts: Facts, cohorts: Mapping[bytes, tuple[Member, ...]]) -> None:
        """
        Args:
            pool: the session's cast.
            facts: gives the facts their names.
            cohorts: U1 of every session that occurred.
        """
        super().__init__(
            facts,
            (
                (("kept",), self._secrets_kept),
                (("went on",), self._went_on),
                (("broke",), self._broke),
                (("agree",), self._two_quorums),
                (("close",), self._two_statements),
                (("close",), self._wrong_sum),
                (("share", "unmask"), self._both_kinds),
                (("share", "unmask", "upload"), self._uncovered),
            ),
        )
        self._pool = pool
        self._cohorts = cohorts
        self._masks = self._mask_names()

    def _secrets_kept(self, facts: list[Fact]) -> str | None:
        for _, node, state in facts:
            return f"node {node} still holds secrets when its session is {state}"
        return None

    def _broke(self, facts: list[Fact]) -> str | None:
        for _, node, error in facts:
            return f"node {node} tripped over a message: {error}"
        return None

    def _went_on(self, facts: list[Fact]) -> str | None:
        for _, node, state in facts:
            return f"node {node} refused a message and its session is still {state}"
        return None

    def _two_quorums(self, facts: list[Fact]) -> str | None:
        signers: dict[Fact, set[int]] = defaultdict(set)
        for _, node, session, sharers, survivors in facts:
            signers[session, sharers, survivors].add(node)
        quorums = [
            (sharers, survivors)
            for (session, sharers, survivors), nodes in signers.items()
            if self._is_quorum(nodes, survivors, len(self._cohorts[session]))
        ]
        if len(quorums) < 2:
            return None
        (one, first), (other, second) = quorums[:2]
        return (
            f"two quorums in one round: U2 = {list(one)}, U3 = {list(first)}; U2 = {list(other)}, U3 = {list(second)}"
        )

    def _two_statements(self, facts: list[Fact]) -> str | None:
        signers: dict[Any, set[int]] = defaultdict(set)
        for _, node, statement in facts:
            signers[statement].add(node)
        receipts = [
            statement
            for statement, nodes in signers.items()
            if self._is_quorum(nodes, statement.survivors, len(statement.cohort))
        ]
        return f"{len(receipts)} receipts of one round" if len(receipts) > 1 else None

    def _wrong_sum(self, facts: list[Fact]) -> str | None:
        for _, node, statement in facts:
            honest = self._pool.corrupt.isdisjoint(statement.sharers)
            total = sum(int(self._pool.vectors[survivor][0]) for survivor in statement.survivors)
            if honest and statement.new_state != state_after(total):
                return f"node {node} signed a sum that is not its survivors', and no sharer colludes"
        return None

    def _both_kinds(self, facts: list[Fact]) -> str | None:
        for fact in facts:
            if fact[0] == "unmask" and not set(fact[3]).isdisjoint(fact[4]):
                return f"node {fact[1]} released both kinds of share for one peer"
        answers = {fact[2:] for fact in facts if fact[0] == "unmask"}
        if len(answers) > 1:
            return "honest nodes released shares for different sets in one round"
        released: dict[tuple[int, bytes, int], set[str]] = defaultdict(set)
        for fact in facts:
            if fact[0] == "unmask":
                _, node, session, self_masks, mask_keys = fact
                for kind, owners in (("self mask", self_masks), ("mask key", mask_keys)):
                    for owner in owners:
                        released[node, session, owner].add(kind)
        for (node, _, owner), kinds in released.items():
            if len(kinds) == 2:
                return f"node {node} released both kinds of share for node {owner}"
        self_masks, mask_keys = self._rebuilt(facts)
        for _, owner in sorted(self_masks & mask_keys):
            if owner in self._pool.honest:
                return f"both secrets of node {owner} can be rebuilt"
        return None

    def _uncovered(self, facts: list[Fact]) -> str | None:
        uploads = {fact[1]: fact for fact in facts if fact[0] == "upload"}
        known = self._rebuilt(facts)
        for part, kind in (("input", bytes), ("tag", int)):
            rows = [self._unknown(fact[3], kind, known) for fact in uploads.values()]
            combinations = null_space(rows)
            if len(combinations) > 1:
                return f"{len(combinations)} independent combinations of the {part}s are free of unknown masks"
            for combination in combinations:
                summed = [node for node, weight in zip(uploads, combination, strict=True) if weight]
                if len({weight for weight in combination if weight}) != 1:
                    return f"a weighted combination of the {part}s of {summed} is free of unknown masks"
                least = self._pool.rules.minimum - self._pool.rules.colluders
                if len(summed) < max(2, least):
                    return f"the {part} of {summed} alone is free of unknown masks"
                if part == "tag" and len({uploads[node][4] for node in summed}) > 1:
                    return f"the tags of {summed} are free of unknown masks together, and made with different keys"
        return None

    def _unknown(self, masks: Masks, kind: type[Mask], known: tuple[_Owners, _Owners]) -> dict[Hashable, int]:
        """One input's row, or one tag's: its unknown masks with their signs."""
        row: dict[Hashable, int] = defaultdict(int)
        for mask, sign in masks:
            if isinstance(mask, kind) and not self._is_known(mask, *known):
                row[mask] += sign
        return row

    def _rebuilt(self, facts: list[Fact]) -> tuple[_Owners, _Owners]:
        """(session, owner) of the self-mask seeds and of the mask seeds for which the attacker has enough shares."""
        held: dict[tuple[str, bytes, int], set[int]] = defaultdict(set)
        for fact in facts:
            session = fact[2]
            if fact[0] == "share":  # the colluders hold a share of each secret of everybody who dealt to them
                colluders = {node for node, _ in self._cohorts[session] if node in self._pool.corrupt}
                held["self mask", session, fact[1]] |= colluders
                held["mask key", session, fact[1]] |= colluders
            elif fact[0] == "unmask":
                for owner in fact[3]:
                    held["self mask", session, owner].add(fact[1])
                for owner in fact[4]:
                    held["mask key", session, owner].add(fact[1])
        enough: dict[str, _Owners] = {"self mask": set(), "mask key": set()}
        for (kind, session, owner), holders in held.items():
            if len(holders) >= self._quorum(len(self._cohorts[session])):
                enough[kind].add((session, owner))
        return enough["self mask"], enough["mask key"]

    def _is_known(self, mask: Mask, self_masks: _Owners, mask_keys: _Owners) -> bool:
        """Whether the attacker has this mask: a colluder's, or derived from a seed that it can rebuild."""
        if mask not in self._masks:
            return True  # not of any node: the attacker made it
        session, owners = self._masks[mask]
        if not self._pool.corrupt.isdisjoint(owners):
            return True
        rebuilt = self_masks if len(owners) == 1 else mask_keys
        return any((session, owner) in rebuilt for owner in owners)

    def _mask_names(self) -> dict[Mask, tuple[bytes, tuple[int, ...]]]:
        """Mask -> session and owners (one for a self mask, two for a pair mask), in every view that a node can have."""
        names: dict[Mask, tuple[bytes, tuple[int, ...]]] = {}
        for session, cohort in self._cohorts.items():
            for view in _views(session, [node for node, _ in cohort]):
                masked = MaskedSum(view, np.empty(0, dtype=np.uint32), 0)
                for place, member in enumerate(cohort):
                    node, secrets = member[0], self._pool.secrets(member)
                    masked.add_self_mask(secrets.self_mask_seed(), node)
                    names |= self._noted(session, node)
                    for later, _ in cohort[place + 1 :]:
                        seed = derivations.pair_seed(secrets.mask_seed(), session, node, later)
                        masked.add_pair_mask(seed, node, later)
                        names |= self._noted(session, node, later)
        return names

    def _noted(self, session: bytes, *owners: int) -> dict[Mask, tuple[bytes, tuple[int, ...]]]:
        """The masks that were just used, as these nodes'."""
        return {mask: (session, owners) for mask, _ in self._pool.streams.take()}

    def _is_quorum(self, honest: Iterable[int], survivors: Iterable[int], cohort_size: int) -> bool:
        """Whether these signers, with all corrupt survivors, are enough."""
        signers = set(honest) | self._pool.corrupt.intersection(survivors)
        return len(signers) >= self._quorum(cohort_size)

    def _quorum(self, cohort_size: int) -> int:
        return self._pool.rules.quorum(cohort_size)


def state_after(total: int) -> bytes:
    """The digest of the next state in an exploration, which is only the sum."""
    return digest("explored state", total.to_bytes(8, "big", signed=True))


def _views(session: bytes, cohort: list[int]) -> set[bytes]:
    """The views that nodes of this session may have: every U2."""
    sizes = range(1, len(cohort) + 1)
    chosen = itertools.chain.from_iterable(itertools.combinations(cohort, size) for size in sizes)
    return {derivations.view_of(session, sharers) for sharers in chosen}


def null_space(rows: list[dict[Hashable, int]]) -> list[list[Fraction]]:
    """A basis of the combinations of these sparse rows that are zero in every column (Gaussian elimination)."""
    work = [
        (
            {column: Fraction(value) for column, value in row.items() if value},
            [Fraction(at == row_at) for at in range(len(rows))],
        )
        for row_at, row in enumerate(rows)
    ]
    basis = []
    while work:
        row, weights = work.pop()
        if not row:
            basis.append(weights)
            continue
        column, pivot = next(iter(row.items()))
        for at, (other, other_weights) in enumerate(work):
            factor = other.get(column, Fraction(0)) / pivot
            if factor:
                reduced = {
                    key: other.get(key, Fraction(0)) - factor * row.get(key, Fraction(0)) for key in {*row, *other}
                }
                work[at] = (
                    {key: value for key, value in reduced.items() if value},
                    [mine - factor * theirs for mine, theirs in zip(other_weights, weights, strict=True)],
                )
    return basis
