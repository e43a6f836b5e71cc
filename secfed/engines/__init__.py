"""Engines carry messages between coordinator and nodes. `embedded` is all of them in one process."""
