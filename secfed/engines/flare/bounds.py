"""What a compromised server, or a malicious site, can make a process of FLARE's allocate: bounded before it is.

FLARE 2.9 allocates what a stream says that it has, up to 4 GiB for each; it takes as many as come, keeps the pieces of
those that failed, queues frames without an end, downloads what a message refers to, and keeps statistics by whatever
topics its peers invent. Its settings for some of that are read from `comm_config.json` *anywhere* below the kit, where
a job of the server's may put one. So the limits are set here, in the process, before it listens (`incoming` says what
they are):

- a frame, as gRPC and FLARE's own TCP take it: FLARE's settings;
- streams: refused by the size that they say, one and together, before anything of them is kept;
- elements of a message, of which one byte becomes up to 64: counted before it is parsed;
- frames that wait to be worked on: the connection is not read meanwhile;
- frames that a peer does not read: what is sent to it is lost then;
- downloads, messages in bulk, files in messages and statistics: not there.

Where FLARE has not what is replaced here, the process does not start.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any

from nvflare.fuel.f3.cellnet.core_cell import CoreCell
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey
from nvflare.fuel.f3.comm_config import CommConfigurator
from nvflare.fuel.f3.drivers import aio_conn, socket_conn
from nvflare.fuel.f3.drivers.grpc.qq import QQ, QueueClosed
from nvflare.fuel.f3.sfm.conn_manager import ConnManager
from nvflare.fuel.f3.sfm.prefix import PREFIX_LEN
from nvflare.fuel.f3.stats_pool import CounterPool, HistPool
from nvflare.fuel.f3.streaming import byte_receiver, download_service
from nvflare.fuel.f3.streaming.blob_streamer import BlobHandler
from nvflare.fuel.f3.streaming.byte_receiver import ByteReceiver, RxTask
from nvflare.fuel.f3.streaming.stream_const import StreamHeaderKey
from nvflare.fuel.f3.streaming.stream_types import StreamError
from nvflare.fuel.utils.fobs import fobs, lobs

from secfed.engines.flare.elements import ELEMENTS_MAX, has_at_most
from secfed.engines.flare.incoming import (
    FRAME_BYTES,
    FRAME_OVERHEAD,
    UNREAD_BYTES,
    Incoming,
    Key,
    TooMuch,
    Waiting,
    pieces_most,
)

INCOMING = Incoming()
"""Of this process."""
_WAITING = Waiting()
_HEADER_BYTES = 64 << 10
_READ_SECONDS = 120
"""For the next piece of a stream."""
_REMEMBERED_MAX = 512
"""Streams that are over and still remembered."""
_FAILED_SECONDS = 60.0
"""For which FLARE remembers a stream that is over, whatever its sender wants."""
SETTINGS: dict[str, Any] = {
    "max_message_size": FRAME_BYTES - _HEADER_BYTES,
    "allow_adhoc_conns": False,
    "streaming_read_timeout": _READ_SECONDS,
    "streaming_max_out_seq_chunks": 128,
    "grpc": {
        "max_workers": 100,
        "options": [
            ("grpc.max_send_message_length", FRAME_BYTES),
            ("grpc.max_receive_message_length", FRAME_BYTES),
        ],
    },
}
"""FLARE's own, as `comm_config.json` would say them."""
_MARK, _HELD = "_secfed_bounded", "_secfed_held"
_UNREAD = threading.Lock()


class NotBounded(Exception):
    """FLARE is another than this was written for: it cannot be bounded, and must not run."""


def bound_memory() -> None:
    """Set all limits in this process, for good. To be called before FLARE makes its connections.

    Raises:
        NotBounded: FLARE lacks what is to be bounded.
    """
    if getattr(CoreCell, _MARK, False):
        return
    CommConfigurator._configuration, CommConfigurator._config_loaded = dict(SETTINGS), True
    if CommConfigurator().get_config() != SETTINGS:
        raise NotBounded("FLARE takes no settings of its connections")
    for module, name in ((socket_conn, "MAX_FRAME_SIZE"), (aio_conn, "MAX_FRAME_SIZE")):
        _replace(module, name, FRAME_BYTES)
    _replace(byte_receiver, "MAX_COMPLETED_TASK_TTL", _FAILED_SECONDS)
    _replace(byte_receiver, "COMPLETED_TASK_TTL", _FAILED_SECONDS)
    _wrap(ByteReceiver, "_data_handler", _take_or_refuse)
    _wrap(RxTask, "stop", _keep_nothing_of_a_failure)
    _replace(lobs, "deserialize", _parse_if_small)
    _replace(ConnManager, "get_dict_payload", staticmethod(functools.partial(_handshake, ConnManager.get_dict_payload)))
    _wrap(BlobHandler, "_run_blob_cb", _let_go_once_used)
    _wrap(QQ, "append", _queue_if_room)
    _wrap(QQ, "__next__", _unqueue)
    _wrap(ConnManager, "process_frame", _wait_for_room)
    _wrap(ConnManager, "process_frame_task", _make_room)
    _replace(download_service, "_download_object", _refuse_download)
    _replace(lobs, "get_datum_dir", _refuse_file)
    _replace(CoreCell, "_receive_bulk_message", _drop)
    _replace(HistPool, "record_value", _drop)
    _replace(CounterPool, "increment", _drop)
    setattr(CoreCell, _MARK, True)


def _replace(owner: Any, name: str, value: Any) -> None:
    if name not in vars(owner):
        raise NotBounded(f"FLARE has no {getattr(owner, '__name__', owner)}.{name}")
    setattr(owner, name, value)


def _wrap(owner: type, name: str, around: Callable[..., Any]) -> None:
    """Have `around` called with FLARE's own method first, and then what that would get."""
    own = vars(owner).get(name)
    if not callable(own):
        raise NotBounded(f"FLARE has no {owner.__name__}.{name}")

    @functools.wraps(own)
    def instead(self: Any, *arguments: Any, **named: Any) -> Any:
        return around(own, self, *arguments, **named)

    setattr(owner, name, instead)


def _key(message: Any) -> Key:
    return message.get_header(MessageHeaderKey.ORIGIN), message.get_header(StreamHeaderKey.STREAM_ID)


def _take_or_refuse(own: Callable[..., Any], receiver: Any, message: Any) -> None:
    """A piece of a stream has come."""
    key = _key(message)
    try:
        hash(key)
        task = RxTask.rx_task_map.get(key)
        if message.get_header(StreamHeaderKey.ERROR_MSG, None) or (task and (task.failed or task.completed)):
            own(receiver, message)  # nothing of it is kept
            return
        size, number = message.get_header(StreamHeaderKey.SIZE, 0), message.get_header(StreamHeaderKey.SEQUENCE)
        if task is None:
            _forget_the_oldest()
        INCOMING.take(key, size, functools.partial(_is_over, key, time.monotonic()))
        if type(number) is not int or not 0 <= number < pieces_most(size):
            raise TooMuch(f"a stream of {size} bytes comes in too many pieces")
        if _held(task) + len(message.payload or b"") > size:
            raise TooMuch(f"a stream of {size} bytes has more")
    except (TooMuch, TypeError) as error:
        _refuse(receiver, message, key, StreamError(str(error)))
        return
    own(receiver, message)


def _forget_the_oldest() -> None:
    """FLARE remembers streams that are over, each with a thread of its own, to acknowledge again what comes again."""
    if len(RxTask.rx_task_map) >= _REMEMBERED_MAX:
        for task in list(RxTask.rx_task_map.values()):
            if task.completed or task.failed:
                task._remove_task()
            if len(RxTask.rx_task_map) < _REMEMBERED_MAX // 2:
                break


def _refuse(receiver: Any, message: Any, key: Key, error: StreamError) -> None:
    """Of what was refused the sender is told once, so that it does not wait."""
    task = RxTask.rx_task_map.get(key) if INCOMING.holds(key) else None
    if task is not None:
        task.stop(error)
    elif message.get_header(StreamHeaderKey.SEQUENCE) == 0:
        receiver.reject(message, error)


def _held(task: Any) -> int:
    """What has come of a stream so far."""
    if task is None:
        return 0
    early = list(task.out_seq_chunks.values())
    return int(task.received_offset) + sum(len(piece or b"") for _, piece in early)


def _is_over(key: Key, since: float) -> bool:
    """Whether a stream that was taken has failed. One that was used is let go by `_let_go_once_used`."""
    task = RxTask.rx_task_map.get(key)
    if task is None:
        return False
    if not task.failed and task.stream_future is None and time.monotonic() - since > _READ_SECONDS:
        task.stop(StreamError("its first piece has not come"), notify=False)  # FLARE waits for it without an end
    return bool(task.failed)


def _keep_nothing_of_a_failure(own: Callable[..., Any], task: Any, error: Any = None, notify: bool = True) -> None:
    """FLARE remembers a failed stream for a while, and its pieces with it."""
    own(task, error, notify)
    if task.failed:
        with task.lock:
            task.chunks.clear()
            task.out_seq_chunks.clear()
        INCOMING.drop((task.origin, task.sid))


def _let_go_once_used(own: Callable[..., Any], handler: Any, future: Any, stream: Any, *rest: Any) -> None:
    """FLARE's call of whoever waits for a stream has returned: that of a reply does so while the reply arrives."""
    try:
        own(handler, future, stream, *rest)
    finally:
        key = stream.task.origin, stream.task.sid
        future.add_done_callback(lambda: INCOMING.drop(key))


def _queue_if_room(own: Callable[..., Any], queue: Any, frame: Any) -> None:
    """A peer that asks, and reads no answer, has them pile up."""
    size = len(frame.data) + FRAME_OVERHEAD
    with _UNREAD:
        held = getattr(queue, _HELD, 0)
        if held and held + size > UNREAD_BYTES:
            raise QueueClosed(f"a peer does not read {held} bytes")
        setattr(queue, _HELD, held + size)
    own(queue, frame)


def _unqueue(own: Callable[..., Any], queue: Any) -> Any:
    frame = own(queue)
    with _UNREAD:
        setattr(queue, _HELD, getattr(queue, _HELD, 0) - len(frame.data) - FRAME_OVERHEAD)
    return frame


def _wait_for_room(own: Callable[..., Any], manager: Any, connection: Any, frame: Any) -> None:
    _WAITING.enter(len(frame))
    own(manager, connection, frame)


def _make_room(own: Callable[..., Any], manager: Any, connection: Any, frame: Any) -> None:
    try:
        own(manager, connection, frame)
    finally:
        _WAITING.leave(len(frame))


def _parse_if_small(data: Any, manager: Any = None, **named: Any) -> Any:
    if not has_at_most(data):
        raise ValueError(f"a message of {len(data)} bytes has more than {ELEMENTS_MAX} elements")
    return fobs.deserialize(data, manager, **named)


def _handshake(own: Callable[..., Any], prefix: Any, frame: Any) -> Any:
    data = memoryview(frame)[PREFIX_LEN + prefix.header_len :]
    if len(data) > _HEADER_BYTES or not has_at_most(data):
        raise ValueError(f"a greeting of {len(data)} bytes")
    return own(prefix, frame)


def _refuse_download(*_: Any, **__: Any) -> None:
    raise RuntimeError("nothing is downloaded here that a message refers to")


def _refuse_file() -> str:
    raise RuntimeError("no message writes files here")


def _drop(*_: Any, **__: Any) -> None:
    """Bulk messages are not used, and statistics not kept."""
