"""`python -m audits.vectors`: check the vectors; `--random N`: and N random sessions; `--write`: make them anew.

Exit status 1 if an implementation departs from a vector or the two from each other; each finding is printed.
"""

from __future__ import annotations

import argparse
import sys

from audits import vectors
from audits.vectors import defects, sessions


def main() -> int:
    """Run the command. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m audits.vectors", description=vectors.__doc__.splitlines()[0])
    parser.add_argument("--random", type=int, default=0, metavar="N", help="play N random sessions on both, too")
    parser.add_argument("--write", action="store_true", help="make all vectors anew before checking them")
    options = parser.parse_args()
    if options.write:
        recorded = sessions.record()
        vectors.write(recorded, defects.make(recorded))
    recorded, wrong = vectors.load_sessions(), vectors.load_defects()
    found = [f"{name}: {text}" for name, session in recorded.items() for text in vectors.check_session(session)]
    for defect in wrong:
        found += [f"{defect.name}: {text}" for text in vectors.check_defect(defect, recorded[defect.session])]
    for seed in range(options.random):
        found += [f"random session {seed}: {text}" for text in vectors.check_random(seed)]
    print("\n".join(found) or "no difference", file=sys.stderr if found else sys.stdout)
    print(f"{len(recorded)} sessions, {len(wrong)} defects, {options.random} random sessions: {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
