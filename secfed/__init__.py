"""The application: studies, hospitals, rounds, reports. Knows `crypto`, `protocols` and `dp`.

Nothing here imports torch at module level but `secfed.models.model`, so that the command line answers at once.
"""

__version__ = "0.1.0"
