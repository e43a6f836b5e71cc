"""Checks a node or an aggregator for everything that a round needs; each problem comes with its fix."""
