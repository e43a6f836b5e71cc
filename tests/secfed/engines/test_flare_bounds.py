"""What a peer can make a process of FLARE's hold in memory. Every attack has its effect where nothing is bounded."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

pytest.importorskip("nvflare")

from nvflare.fuel.f3.comm_config import CommConfigurator

from secfed.demo.loopback import free_port
from secfed.engines.flare import bounds
from secfed.engines.flare.bounds import NotBounded
from secfed.engines.flare.incoming import (
    ENVELOPE_BYTES,
    IDLE_BYTES,
    STREAMS_EACH,
    UNREAD_BYTES,
    WAITING_BYTES,
    Incoming,
    TooMuch,
    Waiting,
    pieces_most,
)
from tests.cells import MIB, CellProcess

NEVER = lambda: False  # noqa: E731
SETTLED_MIB, GROWN_MIB = 80.0, 250.0
"""Less than the one is noise beside what was sent; more than the other is what was sent."""
ATTACKS = {
    "a stream that says it has 400 MiB": ("declare", {"size": 400 * MIB}),
    "many streams that say they have 4 MiB": ("declare", {"size": 4 * MIB, "streams": 100}),
    "a stream whose first piece does not come": ("start_late", {"size": 4 * MIB, "streams": 40, "pieces": 10}),
    "a message of 7 million lists": ("parse", {"lists": 7 * MIB}),
    "streams that fail and are remembered": ("fail", {"streams": 200}),
}


@contextmanager
def cells(*, bounded: bool, both: bool = False) -> Iterator[tuple[CellProcess, CellProcess]]:
    """A server, and a site that follows no rule, or has the same bounds."""
    port = free_port()
    with (
        CellProcess("server", port, bounded=bounded) as server,
        CellProcess("site-1", port, bounded=bounded and both) as site,
    ):
        yield server, site


def growth(server: CellProcess, site: CellProcess, attack: str) -> float:
    before = server.do("peak")
    what, arguments = ATTACKS[attack]
    site.do(what, target="server", **arguments)
    time.sleep(2.0)
    return float(server.do("peak") - before)


@pytest.mark.sweep
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_peer_is_given_no_memory_that_no_study_needs(attack: str) -> None:
    with cells(bounded=True) as (server, site):
        assert growth(server, site, attack) < SETTLED_MIB
    with cells(bounded=False) as (server, site):
        assert growth(server, site, attack) > GROWN_MIB


@pytest.mark.sweep
def test_a_message_of_any_size_goes_through_where_nothing_is_bounded_and_ends_its_connection_where_it_is() -> None:
    with cells(bounded=True) as (server, site):
        before = server.do("peak")
        site.do("frame", target="server", size=300 * MIB)
        time.sleep(2.0)
        assert server.do("peak") - before < SETTLED_MIB
    with cells(bounded=False) as (server, site):
        before = server.do("peak")
        site.do("frame", target="server", size=300 * MIB)
        time.sleep(3.0)
        assert server.do("peak") - before > GROWN_MIB


@pytest.mark.sweep
def test_answers_that_a_peer_does_not_read_do_not_pile_up() -> None:
    grown = {}
    for bounded in (True, False):
        with cells(bounded=bounded) as (server, site):
            before = server.do("peak")
            site.do("ask_and_not_read", target="server", requests=800)
            time.sleep(4.0)
            grown[bounded] = server.do("peak") - before
    assert grown[True] < (WAITING_BYTES + UNREAD_BYTES) / MIB + 3 * SETTLED_MIB < 700.0 < grown[False]


def test_what_a_study_needs_goes_there_and_back_once_it_is_known_and_no_more() -> None:
    with cells(bounded=True) as (server, site):
        assert site.do("echo", target="server", size=1000)
        assert site.do("echo", target="server", size=IDLE_BYTES)
        assert not site.do("echo", target="server", size=20 * MIB)
        server.do("allow", size=20 * MIB, peers=3)
        assert site.do("echo", target="server", size=20 * MIB)
        assert not site.do("echo", target="server", size=20 * MIB + ENVELOPE_BYTES + 1)
        for _ in range(20):
            assert site.do("echo", target="server", size=20 * MIB)  # what was used is let go


@pytest.mark.sweep
def test_streams_that_are_over_are_forgotten_so_that_new_ones_come_in() -> None:
    with cells(bounded=True, both=True) as (_, site):
        assert all(site.do("echo", target="server", size=10) for _ in range(700))
        assert site.do("remembered") <= 520
    with cells(bounded=False) as (_, site):
        assert all(site.do("echo", target="server", size=10) for _ in range(700))
        assert site.do("remembered") >= 700


def test_a_stream_is_taken_by_the_size_that_it_says() -> None:
    incoming = Incoming()
    assert incoming.most_bytes == IDLE_BYTES
    for size in (-1, IDLE_BYTES + 1, 1 << 70, True, None, 1.5, "9", b""):
        with pytest.raises(TooMuch):
            incoming.take(("a", 1), size, NEVER)
    incoming.take(("a", 1), IDLE_BYTES, NEVER)
    needed = [0]
    incoming.allow(lambda: needed[0], peers=200)
    assert incoming.most_bytes == IDLE_BYTES
    needed[0] = 100 * MIB
    assert incoming.most_bytes == 100 * MIB + ENVELOPE_BYTES
    assert incoming.most_bytes_together == 202 * incoming.most_bytes


def test_one_peer_takes_no_others_room() -> None:
    incoming = Incoming()
    for number in range(2):
        incoming.take(("a", number), IDLE_BYTES, NEVER)
    with pytest.raises(TooMuch, match="of one peer"):
        incoming.take(("a", 3), 1, NEVER)
    incoming.take(("b", 1), IDLE_BYTES, NEVER)
    incoming.drop(("a", 1))
    incoming.take(("a", 3), IDLE_BYTES, NEVER)


def test_streams_of_no_size_are_counted_and_those_that_ended_are_not() -> None:
    incoming, ended = Incoming(), threading.Event()
    for number in range(STREAMS_EACH):
        incoming.take(("a", number), 0, ended.is_set)
    with pytest.raises(TooMuch):
        incoming.take(("a", "more"), 0, ended.is_set)
    incoming.take(("a", 3), 0, ended.is_set)  # it was taken already
    ended.set()
    incoming.take(("a", "more"), 0, NEVER)


@pytest.mark.parametrize("size", [0, IDLE_BYTES])
def test_peers_that_are_invented_are_bounded_together(size: int) -> None:
    incoming, taken = Incoming(), 0
    with suppress(TooMuch):
        for number in range(10_000):
            incoming.take((f"peer {number}", 1), size, NEVER)
            taken += 1
    assert 0 < taken <= incoming.most_streams
    assert taken * size <= incoming.most_bytes_together


def test_a_stream_has_no_more_pieces_than_its_size_can_need() -> None:
    assert 1 <= pieces_most(0) <= 100
    assert 100 <= pieces_most(100 * MIB) <= 100 * 64


def test_who_reads_a_connection_waits_while_frames_are_too_many() -> None:
    waiting, entered = Waiting(most_bytes=10_000, patience=60.0), threading.Event()
    waiting.enter(8_000)
    thread = threading.Thread(target=lambda: (waiting.enter(8_000), entered.set()), daemon=True)
    thread.start()
    assert not entered.wait(0.3)
    waiting.leave(8_000)
    assert entered.wait(30.0)
    waiting.leave(8_000)
    waiting.enter(10**6)  # one by itself always has room; gRPC bounds it


def test_who_reads_a_connection_does_not_wait_for_ever() -> None:
    full = Waiting(most_frames=1, patience=0.1)
    full.enter(1)
    with pytest.raises(TooMuch):
        full.enter(1)


def test_another_flare_that_lacks_what_is_bounded_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        """FLARE's of another version."""

    for name in ("_configuration", "_config_loaded"):
        monkeypatch.setattr(CommConfigurator, name, getattr(CommConfigurator, name))
    monkeypatch.setattr(bounds, "CoreCell", Other)
    monkeypatch.setattr(bounds, "ByteReceiver", Other)
    with pytest.raises(NotBounded, match=r"has no Other\._data_handler"):
        bounds.bound_memory()
