"""Every state that the nodes' control logic can reach: explored, not sampled.

The exploration runs the nodes' own code: `protocols.client.Client` with its transition table and checks for one
session, `secfed.node.node.Node` with its store and chain for the rounds of a study. Only the cryptography underneath is
symbolic (`symbols`). The aggregator may send any message that it can build, to any node, in any order, show each node
other sets, sums and receipts, abort rounds, and crash nodes.

Two explorations, because their product would be too large, and because one ends where the other begins:

- *One session* (`pool`, `sessions`, `promises`), message by message: any U1, U2 and U3 for any node, any signatures,
  any sums. The second exploration relies on its result: at most one group of one round number gets a quorum on its
  sets.
- *The rounds of a study* (`studies`, `hospitals`, `chain_promises`): a session is three steps there (joined, agreed,
  closed), with every legal group as U1 = U2 = U3 and, where a colluder is in it, two sums that both pass the checksum.
  It explores what lies between sessions: openings on any chain, withheld receipts, aborted rounds, echoes, locks,
  crashes. The sharers lost inside a session change nothing there: rounds depend only on survivors and statements.

`search` visits the combinations of the nodes' states. Nothing is cut off: a finished exploration with no violation has
seen all of them. Rosters are small, because 2t > N + c has no special cases in larger ones; this is not a proof for all
sizes. `runs` lists the rosters, and the checks that are removed to test that an exploration notices.
"""
