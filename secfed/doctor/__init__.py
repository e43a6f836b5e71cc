"""What is not well at a node or at the aggregator, looked at one by one, each with its fix."""
