"""Tools for researchers and compliance teams to attack secfed: adversaries, privacy audits, leakage, vectors.

This room may import every other, and no other imports it; its commands reach the command line through an entry point.
"""
