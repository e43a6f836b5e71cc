"""Every request that an attacker who carries all messages can make to a node over the rounds of a study.

What happens inside one session is `audits.exploration.sessions`; here a session has three steps: a node joins, agrees
on the group of nodes in the sum, and signs the statement over a sum. With a colluder in the study the attacker shows
two different sums, each with a tag that fits. Openings build on every possible chain of receipts, with any later round
number: the attacker withholds receipts and aborts rounds at will. All requests are real bytes for
`secfed.node.node.Node`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from audits.exploration.search import Fact
from audits.simulator.federation import LAYOUT, FormulaTrainer
from audits.simulator.studies import study_of
from crypto.identity import Identity
from crypto.kdf import digest
from protocols import checksum, derivations, encoding
from protocols.aggregator import Aggregator, Stage
from protocols.checksum import ChecksumKey
from protocols.client import Client
from protocols.derivations import SessionSecrets
from protocols.events import answer
from protocols.messages import Published, Signature
from protocols.parameters import CohortRules
from protocols.receipts import SIGNING_LABEL, Receipt, Statement, statement_of
from protocols.session import Context, SessionConfig
from protocols.wire import encode
from secfed.rounds.chain import Chain
from secfed.rounds.channel import EchoRequest, Link, RoundOpening, StudyClosing


@dataclass(frozen=True, slots=True)
class Signed:
    """One statement that nodes can come to sign, with its sum, and the chain that it continues."""

    statement: Statement
    packed: bytes
    before: tuple[Signed, ...]

    @property
    def path(self) -> tuple[Signed, ...]:
        """The chain up to and including this one."""
        return (*self.before, self)


@dataclass(frozen=True, slots=True)
class Sitting:
    """One session: a round on a chain, and the group that is summed."""

    to_node: dict[int, tuple[bytes, ...]]
    """The messages to each honest member, from Cohort to Agreement."""
    sums: tuple[tuple[Signed, bytes], ...]
    """The sums that can be shown, with the message that shows each."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a node, as a sequence of messages."""

    text: str
    ways: tuple[tuple[tuple[Fact, ...], tuple[bytes, ...]], ...]
    """Alternatives, such as other signers of one receipt: the facts without which it cannot be built, the messages."""


class Studies:
    """One study's nodes, and every request that can be made to them."""

    def __init__(self, rules: CohortRules, rounds: int) -> None:
        """
        Args:
            rules: the study's; the last `rules.colluders` nodes of the roster are corrupt.
            rounds: the study's number of rounds.
        """
        size = rules.roster_size
        self.rules = rules
        self.rounds = rounds
        self.corrupt = frozenset(range(size - rules.colluders, size))
        self.honest = tuple(node for node in range(size) if node not in self.corrupt)
        self.keys = [Identity(digest("explored identity", bytes([node]))) for node in range(size)]
        self.study = study_of(self.keys, rules, rounds)
        self._chains: dict[bytes, Chain] = {}
        self._sittings: dict[tuple[bytes, tuple[int, ...]], Sitting] = {}

    def chain(self, path: Sequence[Signed] = ()) -> Chain:
        """The chain that these statements make, with receipts that everybody signed."""
        head = path[-1].statement.digest() if path else self.study.digest
        if head not in self._chains:
            chain = Chain(self.study, LAYOUT, FormulaTrainer.first_state())
            for signed in path:
                chain.adopt(self.receipt(signed.statement, signed.statement.survivors), signed.packed)
            self._chains[head] = chain
        return self._chains[head]

    @cached_property
    def paths(self) -> tuple[tuple[Signed, ...], ...]:
        """Every possible chain of statements, the empty one first."""
        found: list[tuple[Signed, ...]] = [()]
        for path in found:  # grows while it is walked
            for number in range(self._last_number(path) + 1, self.rounds + 1):
                for group in self.groups:
                    found += [signed.path for signed, _ in self.sitting(path, number, group).sums]
        return tuple(found)

    @cached_property
    def states(self) -> dict[bytes, bytes]:
        """Head of a chain -> digest of the state that it leads to."""
        return {self.chain(path).head: self.chain(path).state.digest(LAYOUT) for path in self.paths}

    @cached_property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The honest halves of the groups that may be summed: with all corrupt nodes they are large enough."""
        sizes = range(1, len(self.honest) + 1)
        chosen = itertools.chain.from_iterable(itertools.combinations(self.honest, size) for size in sizes)
        return tuple(group for group in chosen if self._is_legal(len(group) + len(self.corrupt)))

    def sitting(self, path: tuple[Signed, ...], number: int, group: tuple[int, ...]) -> Sitting:
        """The session of these honest nodes, with all corrupt ones, in this round on this chain."""
        context = self.chain(path).context(number)
        if (context.digest(), group) not in self._sittings:
            self._sittings[context.digest(), group] = self._play(path, context, group)
        return self._sittings[context.digest(), group]

    def openings(self) -> Iterator[Request]:
        """An opening of every round on every chain, with the links that lead there, good and bad."""
        for path in self.paths:
            for number in range(self._last_number(path) + 1, self.rounds + 1):
                opening = self.chain(path).context(number).opening()
                for text, bad in self._bad_links(path):
                    ways = tuple((needs, (encode(RoundOpening(links, opening)),)) for needs, links in bad)
                    yield Request(f"opening of round {number} on {_name(path)}, {text}", ways)
                ways = tuple((needs, (encode(RoundOpening(links, opening)),)) for needs, links in self._links(path))
                yield Request(f"opening of round {number} on {_name(path)}", ways)

    def closings(self) -> Iterator[Request]:
        """The closing header, at any time."""
        for path in self.paths:
            ways = tuple((needs, (encode(StudyClosing(links)),)) for needs, links in self._links(path))
            yield Request(f"closing header on {_name(path)}", ways)

    def echoes(self) -> Iterator[Request]:
        """Every statement, signed by the colluders and as many honest nodes as needed with them, or by the colluders
        alone."""
        for path in self.paths[1:]:
            signed = path[-1]
            honest = [node for node in signed.statement.survivors if node in self.honest]
            for count in sorted({0, self.rules.colluders + 1 - len(self.corrupt)}):
                ways = []
                for some in itertools.combinations(honest, count):
                    receipt = self.receipt(signed.statement, sorted({*some, *self.corrupt}))
                    data = encode(EchoRequest(signed.statement, signed.packed, receipt.signatures))
                    ways.append((tuple(("signed", node, signed.statement) for node in some), (data,)))
                word = f"{count} honest signers" if count else "the colluders' word alone"
                yield Request(f"echo of {_name(path)} on {word}", tuple(ways))

    def agreed(self, path: tuple[Signed, ...], number: int, node: int) -> Iterator[Request]:
        """From Advertise to Agree, for every group that this node may be in."""
        context = self.chain(path).context(number).digest()
        for group in self.groups:
            if node in group:
                messages = self.sitting(path, number, group).to_node[node][:3]
                needs = tuple(("joined", member, context) for member in group)
                yield Request(f"round {number}: U1 = U2 = U3 = {list(self._all(group))}", ((needs, messages),))

    def summed(self, path: tuple[Signed, ...], number: int, group: tuple[int, ...], node: int) -> Iterator[Request]:
        """From Agree to Close, with every sum that can be shown."""
        context = self.chain(path).context(number).digest()
        quorum = self._quorum(group) - len(self.corrupt)
        sitting = self.sitting(path, number, group)
        for at, (_, published) in enumerate(sitting.sums):
            messages = sitting.to_node[node][3], published
            ways = tuple(
                (tuple(("agreed", member, context, group) for member in signers), messages)
                for signers in itertools.combinations(group, quorum)
            )
            yield Request(f"round {number}: the agreement, and sum {'AB'[at]}", ways)

    def config(self, context: Context) -> SessionConfig:
        """A session of this study."""
        return SessionConfig(self.rules, self.study.identities, context, self.study.magnitude)

    def entropy(self, node: int, context: bytes) -> Any:
        """A node's entropy in one context, so that its draws are the same here and in its own session.

        A node that joined twice in one context would draw the same again; that it never does is a promise.
        """
        return partial(_cut, digest("explored root", bytes([node]), context))

    def receipt(self, statement: Statement, signers: Sequence[int]) -> Receipt:
        """The receipt with these nodes' signatures."""
        content = statement.digest()
        signatures = tuple(Signature(node, self.keys[node].sign(SIGNING_LABEL, content)) for node in signers)
        return Receipt(statement, signatures)

    def _bad_links(
        self, path: tuple[Signed, ...]
    ) -> Iterator[tuple[str, list[tuple[tuple[Fact, ...], tuple[Link, ...]]]]]:
        """Chains that only the colluders signed, and good ones with a sum that differs from the one that the last
        receipt covers."""
        if not path:
            return
        alone = tuple(Link(self.receipt(each.statement, sorted(self.corrupt)), each.packed) for each in path)
        yield "receipts on the colluders' word alone", [((), alone)]
        packed = path[-1].packed
        other = packed[:1] + bytes([packed[1] ^ 16]) + packed[2:]  # enough to show in the state
        bent = [(needs, (*links[:-1], Link(links[-1].receipt, other))) for needs, links in self._links(path)]
        yield "another sum than the last receipt's", bent

    def _links(self, path: tuple[Signed, ...]) -> Iterator[tuple[tuple[Fact, ...], tuple[Link, ...]]]:
        """The links of a chain, with every smallest set of signers."""
        choices = []
        for signed in path:
            honest = [node for node in signed.statement.survivors if node in self.honest]
            least = signed.statement.quorum - len(self.corrupt)
            choices.append([(signed, some) for some in itertools.combinations(honest, least)])
        for chosen in itertools.product(*choices):
            needs = tuple(("signed", node, signed.statement) for signed, some in chosen for node in some)
            links = tuple(
                Link(self.receipt(signed.statement, sorted({*some, *self.corrupt})), signed.packed)
                for signed, some in chosen
            )
            yield needs, links

    def _play(self, path: tuple[Signed, ...], context: Context, group: tuple[int, ...]) -> Sitting:
        """Play the session honestly, with real clients and a real aggregator, and forge a second sum if one can be."""
        config, members = self.config(context), self._all(group)
        clients = {
            node: Client(config, node, self.keys[node], ledger_sequence=1, entropy=self.entropy(node, context.digest()))
            for node in members
        }
        aggregator = Aggregator(config)
        outgoing, to_node = aggregator.open(), {node: list[bytes]() for node in members}
        while aggregator.stage is not Stage.CLOSE:
            for node in members:
                to_node[node].append(outgoing[node])
                aggregator.receive(node, self._answer(clients[node], path, outgoing[node]))
            outgoing = aggregator.advance()
        sums = [self._signed(path, aggregator, aggregator.packed_sum)]
        published = [outgoing[members[0]]]
        if self.corrupt:
            forged = self._forged(aggregator, members)
            sums.append(self._signed(path, aggregator, forged.vector))
            published.append(encode(forged))
        sent = {node: tuple(messages[1:]) for node, messages in to_node.items()}
        return Sitting(sent, tuple(zip(sums, published, strict=True)))

    def _answer(self, client: Client, path: tuple[Signed, ...], data: bytes) -> bytes:
        trainer = FormulaTrainer(self.study, client.index)
        return answer(
            client.receive(data), lambda: client.submit(trainer.vector(self.chain(path).state)), lambda _: b""
        )

    def _signed(self, path: tuple[Signed, ...], aggregator: Aggregator, packed: bytes) -> Signed:
        chain = self.chain(path)
        new_state = chain.next_state(packed, aggregator.survivors).digest(LAYOUT)
        groups = aggregator.cohort, aggregator.sharers, aggregator.survivors
        context = aggregator.config.context
        statement = statement_of(context, aggregator.session, groups, aggregator.quorum, packed, new_state)
        return Signed(statement, packed, path)

    def _forged(self, aggregator: Aggregator, members: tuple[int, ...]) -> Published:
        """The sum and a little more, enough to show in the state, with the tag that a colluder can make for it."""
        context = aggregator.config.context
        contributions = {
            node: SessionSecrets(self.entropy(node, context.digest())).checksum_contribution() for node in members
        }
        key = ChecksumKey(derivations.view_of(aggregator.session, members), contributions, context.shape.ring_bits)
        total = encoding.from_ring(encoding.unpack(aggregator.packed_sum, context.shape), context.shape)
        total[0] += 1 << 12
        packed = encoding.pack(encoding.to_ring(total, context.shape, 1 << 62), context.shape)
        return Published(aggregator.session, packed, checksum.encode_tag(key.tag(total, len(members))))

    def _all(self, group: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted({*group, *self.corrupt}))

    def _quorum(self, group: tuple[int, ...]) -> int:
        return self.rules.quorum(len(group) + len(self.corrupt))

    def _is_legal(self, size: int) -> bool:
        try:
            self.rules.check_stage("the group", size, size)
        except Exception:
            return False
        return True

    def _last_number(self, path: Sequence[Signed]) -> int:
        return path[-1].statement.round_number if path else 0


def _name(path: Sequence[Signed]) -> str:
    """A chain, for people: each round with who was summed and which sum."""
    if not path:
        return "the study"
    steps = [(each.statement, each.statement.new_state.hex()[:6]) for each in path]
    return ", ".join(f"round {one.round_number} of {list(one.survivors)} (state {state})" for one, state in steps)


def _cut(root: bytes, size: int) -> bytes:
    return root[:size]
