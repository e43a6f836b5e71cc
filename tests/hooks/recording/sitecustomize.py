"""For the soak: a site's processes write down every vector that they mask. Only a test may: it is what masks hide.

Python imports this at its start, where a test puts the folder on the path. A round's vector is written once; that a
node masks a second one for the same round is written down, too.
"""

import os
from pathlib import Path

_home = os.environ.get("SECFED_HOME")
if _home:
    import numpy as np

    from protocols.client import Client

    _submit = Client.submit

    def _recorded(self, vector):
        folder = Path(_home) / "masked"
        folder.mkdir(exist_ok=True)
        number = self.config.context.round_number
        path = folder / f"{number:04d}.npy"
        if path.exists():
            path = folder / f"{number:04d}-again.npy"
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            np.save(file, vector)
        part.rename(path)
        return _submit(self, vector)

    Client.submit = _recorded
