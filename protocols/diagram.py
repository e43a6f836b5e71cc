"""Draws a session's line of states from the table that the node's machine follows.

python -m protocols.diagram                       # print it
python -m protocols.diagram protocols/SPEC.md     # put it into the page, in the place of the one that is there
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from protocols.client import STEPS
from protocols.messages import FROM_AGGREGATOR, FROM_NODE
from protocols.steps import Received, State, Step

MARK = "<!-- python -m protocols.diagram protocols/SPEC.md -->"
_DRAWN = re.compile(rf"(?<={re.escape(MARK)}\n```\n).*?(?=```\n)", re.DOTALL)
_ANSWERS = dict(zip(FROM_AGGREGATOR, FROM_NODE, strict=True))
_WIDTH = 24


def draw() -> str:
    """The line from a new session to its end, with a state or a step in each line of text, and then the failures."""
    return "".join(f"{line}\n" for line in _lines())


def redrawn(page: str) -> str:
    """The page with the current diagram. Raises ValueError if the page has no place for one, or several."""
    if len(_DRAWN.findall(page)) != 1:
        raise ValueError(f"one block of code after {MARK} was expected")
    return _DRAWN.sub(draw(), page)


def _lines() -> Iterator[str]:
    state = State.NEW
    while state in STEPS:
        step = STEPS[state]
        yield state.name
        yield f" |  {_event(step):{_WIDTH}}{_answer(step)}".rstrip()
        state = step.then
    yield state.name
    yield ""
    yield f"{State.FAILED.name}: from every state but {state.name}, when a message is refused or the node gives up"


def _event(step: Step) -> str:
    return step.kind.TYPE if isinstance(step, Received) else f"the node's {step.name}"


def _answer(step: Step) -> str:
    """What the step sends. Nothing at once, if the program around the node has yet to make the answer."""
    later = {other.answers for other in STEPS.values() if not isinstance(other, Received)}
    if not isinstance(step, Received):
        return f"sends {_ANSWERS[step.answers].TYPE}, the answer to {step.answers.TYPE}"
    return "" if step.kind in later else f"sends {_ANSWERS[step.kind].TYPE}"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m protocols.diagram", description=__doc__)
    parser.add_argument("page", nargs="?", type=Path, help="a page with a place for the diagram")
    page = parser.parse_args().page
    if page is None:
        print(draw(), end="")
    else:
        page.write_text(redrawn(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
