"""How fast vectors are masked and packed on one core. Medians of several runs in one process."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np

from crypto.prg import RingVector, add_stream
from protocols import encoding
from protocols.checksum import ChecksumKey
from protocols.masking import MaskedSum
from protocols.parameters import RoundShape

ELEMENTS = 1_000_000
REPEATS = 9


def median_seconds(action: Callable[[], object]) -> float:
    """The median of several runs, after one that does not count."""
    action()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def measure() -> dict[str, float]:
    """Million elements a second, for each operation and width; and the checksum's share of masking."""
    results = {}
    for bits in (24, 32, 48):
        shape = RoundShape(ELEMENTS, bits)
        vector: RingVector = encoding.empty_ring(shape)
        add_stream(vector, bytes(32))
        packed = encoding.pack(vector, shape)
        results[f"mask stream, {vector.dtype}"] = (
            ELEMENTS / 1e6 / median_seconds(lambda v=vector: add_stream(v, bytes(32)))
        )
        results[f"pack to {bits} bits"] = ELEMENTS / 1e6 / median_seconds(lambda v=vector, s=shape: encoding.pack(v, s))
        results[f"unpack {bits} bits"] = (
            ELEMENTS / 1e6 / median_seconds(lambda p=packed, s=shape: encoding.unpack(p, s))
        )
    results.update(checksum_share())
    values = np.zeros(ELEMENTS, dtype=np.float32)
    fixed = encoding.FixedPoint(18, 1 << 16)
    results["fixed-point encoding"] = ELEMENTS / 1e6 / median_seconds(lambda: fixed.encode(values, 1600))
    return results


def checksum_share(nodes: int = 10) -> dict[str, float]:
    """What the checksum adds to masking one input among `nodes`, as a percentage; both in one run."""
    shape = RoundShape(ELEMENTS, 32)
    view = bytes(32)
    key = ChecksumKey(view, {0: bytes(32)}, shape.ring_bits)
    values = np.random.default_rng(1).integers(-(1 << 30), 1 << 30, ELEMENTS)
    masked = MaskedSum(view, encoding.empty_ring(shape), 0)

    def mask() -> None:
        masked.add_self_mask(bytes(32), 0)
        for peer in range(1, nodes):
            masked.add_pair_mask(bytes(32), 0, peer)

    share = 100 * median_seconds(lambda: key.tag(values)) / median_seconds(mask)
    return {f"checksum, % of masking at n = {nodes}": share}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="the same for machines")
    results = measure()
    if parser.parse_args().json:
        print(json.dumps(results))
        return
    for name, value in results.items():
        print(f"{name:<36} {value:8.1f}" + ("" if "%" in name else " M elements/s"))


if __name__ == "__main__":
    main()
