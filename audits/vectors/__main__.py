"""`python -m audits.vectors`: check the vectors; `--random N`: and N random sessions; `--write`: make them anew.

Exit status 1 if an implementation departs from a vector or the two from each other; each finding is printed.
"""

from __future__ import annotations

import argparse
import sys

from audits import vectors
from audits.vectors import dealers, defects, ledgers, receipts, round_answers, round_cases, rounds, sessions


def main() -> int:
    """Run the command. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m audits.vectors", description=vectors.__doc__.splitlines()[0])
    parser.add_argument("--random", type=int, default=0, metavar="N", help="play N random sessions on both, too")
    parser.add_argument(
        "--write",
        nargs="?",
        const="all",
        choices=("all", "dealers", "receipts", "rounds", "ledger"),
        help="make all vectors anew before checking them, or only those on top of the recorded sessions",
    )
    options = parser.parse_args()
    if options.write == "all":
        made = sessions.record()
        vectors.write(made, defects.make(made))
    if options.write in ("all", "receipts"):
        receipts.write(receipts.make())
    if options.write in ("all", "dealers"):
        dealers.write(dealers.make(vectors.load_sessions()))
    if options.write in ("all", "rounds"):
        rounds.write(round_cases.make())
    if options.write in ("all", "ledger"):
        ledgers.write(ledgers.make(rounds.load()))
    found, counted = _check()
    for seed in range(options.random):
        found += [f"random session {seed}: {text}" for text in vectors.check_random(seed)]
    print("\n".join(found) or "no difference", file=sys.stderr if found else sys.stdout)
    print(f"{counted}, {options.random} random sessions: {len(found)} findings")
    return 1 if found else 0


def _check() -> tuple[list[str], str]:
    """Everything recorded: what is wrong with it, and how much of it there is."""
    recorded, wrong = vectors.load_sessions(), vectors.load_defects()
    chain, liars, across = receipts.load(), dealers.load(), rounds.load()
    found = [f"honest receipts: {text}" for text in receipts.check_honest(chain)]
    for name, session in recorded.items():
        found += [f"{name}: {text}" for text in vectors.check_session(session) + receipts.check_recorded(session)]
    for defect in wrong:
        found += [f"{defect.name}: {text}" for text in vectors.check_defect(defect, recorded[defect.session])]
    for bad in chain.defects:
        found += [f"{bad.name}: {text}" for text in receipts.check_receipt(bad, chain)]
    for liar in liars:
        found += [f"{liar.name}: {text}" for text in dealers.check_dealer(liar, recorded[liar.session])]
    for case in across.cases:
        found += [f"{case.name}: {text}" for text in rounds.check_case(case, across)]
    for answer in (*round_answers.HONEST, *across.answers):
        found += [f"{answer.name or answer.answer}: {text}" for text in round_answers.check(answer, across)]
    copies = ledgers.load()
    for copy in (None, *copies.defects):
        found += [f"ledger's copy, {copy or 'honest'}: {text}" for text in ledgers.check(copies, copy)]
    counts = f"{len(recorded)} sessions, {len(wrong)} defects, {len(chain.defects)} bad receipts"
    counts += f", {len(liars)} dishonest dealers, {len(across.cases)} cases across rounds"
    return found, f"{counts}, {len(across.answers)} bad answers, {len(copies.defects)} bad ledgers"


if __name__ == "__main__":
    sys.exit(main())
