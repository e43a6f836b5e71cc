"""NVIDIA FLARE between machines: it connects, authenticates and starts; what travels is our bytes, end to end.

A job is configuration only: it names the classes here, and a study by its digest. Everything else each side has
already: the node in its home (`secfed.node.home`), the aggregator in its own folder (`secfed.aggregator.home`). Only
modules of this package import nvflare.
"""
