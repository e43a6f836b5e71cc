"""Tests the evidence of a finished run: every byte of it changed, and the verifier started at any file."""
