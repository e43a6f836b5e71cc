"""Secure aggregation against a malicious aggregator, sans-IO: bytes in, bytes and events out.

Start with `parameters` (what a round's numbers must satisfy), then `session` (what a round is bound to), `messages`,
and the two state machines `client` and `aggregator`. This room imports only `crypto`.
"""
