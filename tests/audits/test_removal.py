"""A line that is taken out of the nodes is gone, wherever its function is known, and nothing else is."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import pytest

from audits.adversaries import weakened
from audits.simulator.removal import is_refusal, place_of, without
from audits.simulator.world import CORRUPT, VICTIM, Conversation, World
from crypto import shamir
from crypto.identity import Identity
from crypto.kdf import digest
from protocols import client, receipts, session
from protocols.errors import BadSignature, CohortTooSmall, WrongLength
from protocols.messages import Agreement, Signature
from protocols.parameters import CohortRules, RoundShape
from protocols.steps import Received, State
from protocols.wire import Limits, Number, Source, encode
from secfed.node import echo, locks, node, restored
from secfed.node import session as node_session

PLANTED = """
from contextlib import contextmanager

def one_of_two(value):
    if value < 0:
        raise ValueError("negative")
    elif value > 9:
        raise ValueError("large")
    else:
        return "small"

def first_of_two_statements(value):
    if value < 0:
        value = -value
        raise ValueError("negative")
    return value

def swallowed(text):
    number = 7
    try:
        number = int(text)
    except ValueError as error:
        raise LookupError("no number") from error
    return number

def inside(value):
    def check():
        if value < 0:
            raise ValueError("negative")
    check()
    return value

@contextmanager
def managed(value):
    if value < 0:
        raise ValueError("negative")
    yield value

class Kept:
    @property
    def whole(self):
        raise ValueError("no property")

    @staticmethod
    def alone():
        raise ValueError("no static method")

    @classmethod
    def of_class(cls):
        raise ValueError("no class method")

def fails():
    return {}["nothing"]
"""


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that counts as nodes' code."""
    return plant(tmp_path, monkeypatch, PLANTED)


def plant(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> ModuleType:
    path = folder / "planted.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("protocols.planted", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "protocols.planted", module)
    return module


def refusal(call: Callable[[], object]) -> str:
    """Where a call is refused."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call()
    return place_of(caught.value)


@pytest.mark.parametrize(
    ("call", "without_it"),
    [
        (lambda module: module.one_of_two(-1), "small"),
        (lambda module: module.one_of_two(10), "small"),
        (lambda module: module.first_of_two_statements(-3), 3),
        (lambda module: module.swallowed("x"), 7),
        (lambda module: module.inside(-1), -1),
        (lambda module: module.managed(-1).__enter__(), -1),
        (lambda module: module.Kept().whole, None),
        (lambda module: module.Kept.alone(), None),
        (lambda module: module.Kept.of_class(), None),
    ],
)
def test_a_refusal_is_gone_while_it_is_taken_out_and_back_afterwards(
    call: Callable[[ModuleType], object], without_it: object, planted: ModuleType
) -> None:
    place = refusal(lambda: call(planted))
    with without([place]):
        assert call(planted) == without_it
    assert refusal(lambda: call(planted)) == place


def test_other_refusals_of_the_same_function_stay(planted: ModuleType) -> None:
    negative, large = refusal(lambda: planted.one_of_two(-1)), refusal(lambda: planted.one_of_two(10))
    with without([negative]):
        assert refusal(lambda: planted.one_of_two(10)) == large
    with without([large]):
        assert refusal(lambda: planted.one_of_two(-1)) == negative
    with without([negative, large]):
        assert planted.one_of_two(10) == "small"


def test_a_line_at_which_a_node_merely_fails_is_no_refusal(planted: ModuleType) -> None:
    place = refusal(planted.fails)
    assert not is_refusal(place)
    with pytest.raises(LookupError, match="no refusal"), without([place]):
        pass


@pytest.mark.parametrize("place", ["outside the project", "protocols/no_such.py:3", "protocols/client.py:1", ""])
def test_what_is_no_place_of_the_nodes_code_is_no_refusal(place: str) -> None:
    assert not is_refusal(place)
    with pytest.raises(LookupError, match="no refusal"), without([place]):
        pass


def test_lines_are_back_after_an_error_and_after_a_place_that_is_none(planted: ModuleType) -> None:
    place = refusal(lambda: planted.swallowed("x"))
    with pytest.raises(KeyError), without([place]):
        raise KeyError
    with pytest.raises(LookupError), without([place, "protocols/client.py:1"]):
        pass
    assert refusal(lambda: planted.swallowed("x")) == place


def test_a_function_that_something_else_has_replaced_is_not_taken_for_the_one_in_the_file(planted: ModuleType) -> None:
    place = refusal(lambda: planted.one_of_two(-1))
    with (
        patch.object(planted, "one_of_two", lambda value: None),
        pytest.raises(LookupError, match="not what runs"),
        without([place]),
    ):
        pass


def test_no_file_is_written(planted: ModuleType, tmp_path: Path) -> None:
    place = refusal(lambda: planted.one_of_two(-1))
    with without([place]):
        planted.one_of_two(-1)
        assert (tmp_path / "planted.py").read_text() == PLANTED


def agreed() -> Conversation:
    """A session in which everybody has signed the sets."""
    talk = Conversation(World())
    talk.upload(talk.world.everyone)
    talk.announce(talk.world.everyone, talk.world.everyone)
    return talk


def test_a_handler_in_a_table_lacks_the_line_and_keeps_its_other_checks() -> None:
    talk = agreed()
    talk.agree([VICTIM], [CORRUPT])
    (too_few,) = talk.world.refusals
    assert isinstance(too_few.error, CohortTooSmall)
    step = client.STEPS[State.AGREED]
    assert isinstance(step, Received)
    assert step.handler is client.Client._unmask
    with without([too_few.place]):
        talk = agreed()
        talk.agree([VICTIM], [CORRUPT])
        assert VICTIM in talk.knowledge.unmasks
        talk = agreed()
        forged = Identity(digest("forger")).sign("agree", b"")
        talk.send(VICTIM, encode(Agreement(talk.knowledge.session, (Signature(1, forged),))))
        assert [type(refused.error) for refused in talk.world.refusals] == [BadSignature]


def test_a_function_that_others_have_imported_by_name_lacks_the_line() -> None:
    assert client.check_cohort is session.check_cohort  # type: ignore[attr-defined]
    world = World()
    world.seen_ledgers = {1: 9}
    talk = Conversation(world)
    talk.advertise(world.everyone)
    talk.show_cohort([VICTIM], world.everyone)
    (shorter,) = world.refusals
    assert shorter.place.startswith("protocols/session.py:")
    with without([shorter.place]):
        world = World()
        world.seen_ledgers = {1: 9}
        talk = Conversation(world)
        talk.upload(world.everyone)
        assert world.refusals == []


@pytest.mark.parametrize(
    ("call", "without_it"),
    [
        (lambda: CohortRules(7, 1, 2, 3).quorum(3), 5),
        (lambda: shamir.share_secret(bytes(32), 5, [1, 2], bytes(32)).keys(), {1, 2}),
        (lambda: RoundShape(0, 32).dimension, 0),
        (lambda: Number(3).decode(4, Limits(3, 8), Source(None)), 4),
    ],
)
def test_frozen_classes_and_plain_functions_of_the_nodes_lack_the_line(
    call: Callable[[], object], without_it: object
) -> None:
    place = refusal(call)
    with without([place]):
        assert call() == without_it
    assert refusal(call) == place


def test_a_weakening_calls_the_function_without_the_line() -> None:
    place = refusal(lambda: Number(3).decode(4, Limits(3, 8), Source(None)))
    with without([place]), weakened.unchecked_signatures():
        assert Number(3).decode(4, Limits(3, 8), Source(None)) == 4
    with pytest.raises(WrongLength):
        Number(3).decode(4, Limits(3, 8), Source(None))


def raise_lines() -> Iterator[str]:
    """Every `raise` of the node and of its session."""
    for module in (client, node, echo, locks, restored, node_session, session, receipts):
        name = module.__name__.replace(".", "/")
        lines = Path(str(module.__file__)).read_text().splitlines()
        yield from (f"{name}.py:{at}" for at, text in enumerate(lines, 1) if text.strip().startswith("raise "))


@pytest.mark.parametrize("place", list(raise_lines()))
def test_every_refusal_of_a_node_can_be_taken_out(place: str) -> None:
    assert is_refusal(place)
    with without([place]):
        pass
