"""Federated averaging over four sites: model, data, loss, process. Takes seconds.

    python examples/averaging.py

The protocol, the noise and the ledgers are real; the sites are made up, and all run in this process.
"""

import tempfile
from pathlib import Path

import toy

import secfed


class Screen:
    """Shows what happens. Any object with this method works."""

    def show(self, event: secfed.Event) -> None:
        """Called with every event of the run."""
        if isinstance(event, secfed.RoundClosed):
            print(f"round {event.round_number}: {event.survivors} sites, epsilon {event.epsilon:.2f} spent so far")


with tempfile.TemporaryDirectory() as scratch:
    study = secfed.make_workspace(
        Path(scratch, "study"),
        base=toy.tiny_base(Path(scratch, "base")),  # the model, on which an adapter is trained
        sites={name: toy.records(name, 250) for name in ("north", "east", "south", "west")},  # the data
        test=toy.records("held-out", 300),
        labels=list(toy.WORDS),  # the loss: cross-entropy over these
        mode="local",  # the process: private steps at each site, then an average under masks
        algorithm={"rounds": 3, "physical_batch": 300, "local": {"steps": 5, "learning_rate": 0.03}},
        privacy={"epsilon": 8, "sampling_rate": 1},
    )
    run = Path(scratch, "run")
    summary = secfed.execute(secfed.prepare(study, run), Screen()).summary
    print(f"accuracy {summary['accuracy_before']:.2f} before, {summary['accuracy_after']:.2f} after")
    print(secfed.verify_folder(run).problem or "the run verifies: signatures, sums, adapter, ledgers, report")
