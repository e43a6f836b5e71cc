"""The messages between nodes and aggregator, and what each of them computes from a sum. No torch."""
