"""The application: studies, hospitals, rounds, reports. Knows `crypto`, `protocols` and `dp`.

torch is imported in `secfed.models` alone, so that the command line answers at once.
"""

__version__ = "0.1.0"
