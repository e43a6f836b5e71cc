"""What nodes and aggregator say to one another, and what each of them computes from a sum. No torch."""
