"""The engine between machines, over NVIDIA FLARE: FLARE connects, authenticates and starts processes, and carries our
bytes end to end.

A job is configuration only: it names the classes here, and a study by its digest. Each side already has everything
else: the node in its home (`secfed.node.home`), the aggregator in its own folder (`secfed.aggregator.home`). Only
modules of this package import nvflare.
"""
