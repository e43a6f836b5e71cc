"""One site: its node, its home, its policy, and what its owner decides. Knows nothing of the aggregator."""
