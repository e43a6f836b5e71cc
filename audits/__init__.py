"""What researchers and compliance teams run against us: adversaries, privacy audits, leakage, vectors.

This room knows everything and nothing knows it. It is empty until the protocol's attack suite moves in.
"""
