"""Every site in one process, each with its own folder, keys and ledger: for the demo, research and tests."""
