"""Every state that the nodes' control logic can reach: explored, not sampled.

What runs is the nodes' own code: `protocols.client.Client` with its transition table and checks for one session,
`secfed.node.node.Node` with its store and chain for the rounds of a study. Only the cryptography underneath is symbolic
(`symbols`). Against it stands an aggregator that may send any message it can build, to any node, in any order, show
each node other sets, sums and receipts, abort rounds, and crash nodes.

Two explorations, because their product would be too large, and because one ends where the other begins:

- *One session* (`pool`, `sessions`, `promises`), message by message: any U1, U2 and U3 for any node, any signatures,
  any sums. What the rounds take from it: at most one group of one round number gets a quorum on its sets.
- *The rounds of a study* (`studies`, `hospitals`, `chain_promises`): a session is three steps there (joined, agreed,
  closed), with every legal group as U1 = U2 = U3 and, where a colluder is in it, two sums that both pass the checksum.
  What is explored lies between sessions: openings on any chain, withheld receipts, aborted rounds, echoes, locks,
  crashes. Which sharers were lost inside a session changes nothing there: rounds know survivors and statements alone.

`search` visits the combinations of the nodes' states. Nothing is cut off: a finished exploration with no violation has
seen all of them. Rosters are small, as 2t > N + c has no special cases in larger ones; it is no proof for all sizes.
`runs` says which rosters, and which checks are taken out to see that an exploration notices.
"""
