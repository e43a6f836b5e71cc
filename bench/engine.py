"""What carrying a round between processes costs: seconds of a round that are not the slowest hospital's training.

A server and five hospitals as real processes over mutual TLS (`secfed federation demo`), with an adapter of about
100,000 numbers and fewer patients. Masking, signatures, the aggregator's own work and FLARE's messages are all in it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from secfed.cli.reporters import choose_reporter
from secfed.demo.flare import run_demo
from secfed.demo.workspace import DemoSettings
from secfed.models.libraries import settle_libraries

SETTINGS = DemoSettings(patients=2000, steps=8, rank=20)


def measure(out: Path, as_json: bool) -> dict[str, object]:
    """Run the study once, in a new folder."""
    reporter = choose_reporter(as_json)
    try:
        outcome = run_demo(out, reporter, settings=SETTINGS)
    finally:
        reporter.close()
    last = outcome.summary["rounds"][-1]
    return {
        "hospitals": SETTINGS.hospitals,
        "elements": last["dimension"],
        "ring_bits": last["ring_bits"],
        "rounds": len(outcome.overheads),
        "median_seconds": round(statistics.median(outcome.overheads), 3),
        "most_seconds": round(max(outcome.overheads), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="progress as JSON lines, the figures as the last one")
    options = parser.parse_args()
    settle_libraries()
    with tempfile.TemporaryDirectory(prefix="secfed-bench-") as folder:
        found = measure(Path(folder) / "demo", options.json)
    if options.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name:<16} {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
