"""Engines carry messages between coordinator and nodes: `embedded` in one process, `flare` between machines."""
