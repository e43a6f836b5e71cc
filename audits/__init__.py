"""What researchers and compliance teams run against us: adversaries, privacy audits, leakage, vectors.

This room knows everything and nothing knows it; its commands reach the command line through an entry point.
"""
