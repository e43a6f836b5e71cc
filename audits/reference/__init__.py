"""The second implementation: the SPEC, written again from its text alone. Shares no code with the first."""
