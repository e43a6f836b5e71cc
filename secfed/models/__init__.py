"""Base models, adapters, records and training: what needs torch, and what stands beside it."""
