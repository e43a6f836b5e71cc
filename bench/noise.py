"""How fast discrete Gaussian noise is drawn, on one core and in its CPU time. Medians of several runs in one process.

CPU time (`time.process_time`), because other work on the machine stretches wall-clock time. The real-number Gaussian
stands beside it for comparison; so does the table that the first draw with a variance has to wait for.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from fractions import Fraction

from crypto.randomness import NoiseSecret

DRAWS = 1_000_000
REPEATS = 7
VARIANCES: dict[str, Fraction] = {
    "1/2": Fraction(1, 4),
    "100": Fraction(100**2),
    "2^12": Fraction(2**24),
    "2^20/sqrt(3)": Fraction(2**40, 3),
    "2^32": Fraction(2**64),
}


def cpu_seconds(action: Callable[[], object]) -> float:
    """The CPU time of one run."""
    started = time.process_time()
    action()
    return time.process_time() - started


def median_rate(action: Callable[[], object]) -> float:
    """Million draws a second of CPU time: the median of several runs, after one that does not count."""
    action()
    return DRAWS / 1e6 / statistics.median(cpu_seconds(action) for _ in range(REPEATS))


def measure() -> dict[str, float]:
    """Million draws a second for each standard deviation, in steps; and the milliseconds of the largest table."""
    stream = NoiseSecret().stream("bench")
    first = cpu_seconds(lambda: stream.discrete_gaussian(1, VARIANCES["2^32"]))
    results = {
        f"discrete Gaussian, s = {name}": median_rate(lambda v=variance: stream.discrete_gaussian(DRAWS, v))
        for name, variance in VARIANCES.items()
    }
    results["real-number Gaussian"] = median_rate(lambda: stream.gaussian(DRAWS, 1.0))
    results["first draw, s = 2^32 (ms)"] = 1e3 * first
    return results


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="the same for machines")
    asked = parser.parse_args()
    results = measure()
    if asked.json:
        print(json.dumps(results))
        return
    for name, value in results.items():
        print(f"{name:<36} {value:8.1f}" + ("" if "(ms)" in name else " M draws/s"))


if __name__ == "__main__":
    main()
