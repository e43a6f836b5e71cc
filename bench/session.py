"""What a whole session costs: CPU seconds of one node and of the aggregator, and bytes, by roster size and length.

Everything runs in one process and thread; the node's time is the mean over all nodes. One node in twenty drops out
before its masked input, so that unmasking has work to do.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from crypto.identity import Identity
from crypto.kdf import digest
from protocols.aggregator import Aggregator, Stage
from protocols.client import Client
from protocols.events import answer
from protocols.parameters import CohortRules, RoundShape
from protocols.session import Context, SessionConfig

SETTINGS = ((5, 1), (5, 50_000), (20, 1), (20, 50_000), (50, 1000))


@dataclass
class Cost:
    """One session's cost."""

    nodes: int
    elements: int
    node_cpu_ms: float
    aggregator_cpu_ms: float
    node_up_kib: float
    node_down_kib: float


def leaving_nodes(nodes: int) -> set[int]:
    """Who drops out before its masked input: every twentieth node, and always the first."""
    return set(range(0, nodes, 20))


def session_config(nodes: int, elements: int) -> tuple[SessionConfig, list[Identity]]:
    """A legal session of this size in a ring of 32 bits, which tolerates the nodes that leave."""
    identities = [Identity(digest("bench", node.to_bytes(4, "big"))) for node in range(nodes)]
    colluders = 1
    rules = CohortRules(nodes, colluders, len(leaving_nodes(nodes)), colluders + 2)
    study = digest("bench study")
    context = Context(study, 1, study, digest("base"), digest("state"), RoundShape(elements, 32))
    return SessionConfig(rules, tuple(each.public for each in identities), context, 1 << 20), identities


def _answer(client: Client, request: bytes, vector: NDArray[np.int64], survivors: int) -> bytes:
    """What a node answers. Everybody's vector is the same, so that the sum can be checked."""

    def close(total: NDArray[np.int64]) -> bytes:
        if not np.array_equal(total, vector * survivors):
            raise SystemExit("a wrong sum")
        return client.close(digest("next"))

    return answer(client.receive(request), lambda: client.submit(vector), close)


def measure(nodes: int, elements: int) -> Cost:
    """Run one session and add up CPU time on both sides."""
    config, identities = session_config(nodes, elements)
    clients = [Client(config, index, key, ledger_sequence=0) for index, key in enumerate(identities)]
    vector = np.arange(elements, dtype=np.int64)
    leaving = leaving_nodes(nodes)
    node_seconds = 0.0
    up = down = 0
    started = time.process_time()
    aggregator = Aggregator(config)
    requests = aggregator.open()
    while True:
        stage = aggregator.stage
        if stage is Stage.CLOSE:
            aggregator.expect_state(digest("next"))
        for index, request in requests.items():
            if index in leaving and stage is Stage.MASKED_INPUT:
                continue
            before = time.process_time()
            said = _answer(clients[index], request, vector, nodes - len(leaving))
            node_seconds += time.process_time() - before
            down, up = down + len(request), up + len(said)
            aggregator.receive(index, said)
        if stage is Stage.CLOSE:
            aggregator.receipt()
            break
        requests = aggregator.advance()
    total = time.process_time() - started
    return Cost(
        nodes,
        elements,
        1000 * node_seconds / nodes,
        1000 * (total - node_seconds),
        up / nodes / 1024,
        down / nodes / 1024,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="the same for machines")
    parser.add_argument("--nodes", type=int, help="one session of this many nodes instead of the table")
    parser.add_argument("--elements", type=int, default=10_000, help="with --nodes: the vector's length")
    options = parser.parse_args()
    measure(5, 1)  # first touch of code and memory does not count
    settings = SETTINGS if options.nodes is None else ((options.nodes, options.elements),)
    costs = [measure(*setting) for setting in settings]
    if options.json:
        print(json.dumps([asdict(cost) for cost in costs]))
        return
    print("nodes  elements   node CPU ms   aggregator CPU ms   KiB up   KiB down (a node)")
    for cost in costs:
        print(
            f"{cost.nodes:>5}  {cost.elements:>8}   {cost.node_cpu_ms:>11.1f}   {cost.aggregator_cpu_ms:>17.1f}"
            f"   {cost.node_up_kib:>6.0f}   {cost.node_down_kib:>8.0f}"
        )
    print(
        f"sums correct; peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB in one process"
    )


if __name__ == "__main__":
    main()
