"""Limits on the memory that a compromised server or a malicious site can make a FLARE process allocate, checked before
allocation.

FLARE 2.9 allocates the size that a stream announces, up to 4 GiB each. It accepts any number of streams, keeps the
pieces of failed ones, queues frames without limit, downloads what a message refers to, and keeps statistics under any
topic that a peer invents. It reads its settings for some of this from a `comm_config.json` *anywhere* below the kit,
where a job from the server may put one. So this module sets the limits in the process, before it listens (`incoming`
has the values):

- a frame, over gRPC and FLARE's own TCP: by FLARE's settings;
- streams: refused by their announced size, singly and together, before anything is kept;
- elements of a message, where one byte can become 64 in memory: counted before parsing;
- frames waiting to be processed: reading from the connection pauses;
- frames that a peer does not read: further frames to it are dropped;
- downloads, bulk messages, files in messages and statistics: switched off.

If FLARE lacks anything that this module replaces, the process does not start.
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
"""This process's limits on streams and frames."""
_WAITING = Waiting()
_HEADER_BYTES = 64 << 10
_READ_SECONDS = 120
"""Seconds to wait for the next piece of a stream."""
_REMEMBERED_MAX = 512
"""The most finished streams remembered."""
_FAILED_SECONDS = 60.0
"""Seconds for which FLARE remembers a finished stream, whatever its sender asks for."""
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
"""FLARE's own settings, as `comm_config.json` would give them."""
_MARK, _HELD = "_secfed_bounded", "_secfed_held"
_UNREAD = threading.Lock()


class NotBounded(Exception):
    """This FLARE version differs from the supported one: it cannot be bounded and must not run."""


def bound_memory() -> None:
    """Set all limits in this process, permanently. Call before FLARE connects.

    Raises:
        NotBounded: FLARE lacks something that must be bounded.
    """
    if getattr(CoreCell, _MARK, False):
        return
    CommConfigurator._configuration, CommConfigurator._config_loaded = dict(SETTINGS), True
    if CommConfigurator().get_config() != SETTINGS:
        raise NotBounded("FLARE does not accept connection settings")
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
    """Replace a FLARE method by `around`, which gets the original method and then its arguments."""
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
    """Handle an arriving piece of a stream."""
    key = _key(message)
    try:
        hash(key)
        task = RxTask.rx_task_map.get(key)
        if message.get_header(StreamHeaderKey.ERROR_MSG, None) or (task and (task.failed or task.completed)):
            own(receiver, message)  # keep nothing of it
            return
        size, number = message.get_header(StreamHeaderKey.SIZE, 0), message.get_header(StreamHeaderKey.SEQUENCE)
        if task is None:
            _forget_the_oldest()
        INCOMING.take(key, size, functools.partial(_is_over, key, time.monotonic()))
        if type(number) is not int or not 0 <= number < pieces_most(size):
            raise TooMuch(f"a stream of {size} bytes arrives in too many pieces")
        if _held(task) + len(message.payload or b"") > size:
            raise TooMuch(f"a stream announced as {size} bytes is longer")
    except (TooMuch, TypeError) as error:
        _refuse(receiver, message, key, StreamError(str(error)))
        return
    own(receiver, message)


def _forget_the_oldest() -> None:
    """Bound FLARE's memory of finished streams, which it keeps, with a thread each, to acknowledge repeated pieces."""
    if len(RxTask.rx_task_map) >= _REMEMBERED_MAX:
        for task in list(RxTask.rx_task_map.values()):
            if task.completed or task.failed:
                task._remove_task()
            if len(RxTask.rx_task_map) < _REMEMBERED_MAX // 2:
                break


def _refuse(receiver: Any, message: Any, key: Key, error: StreamError) -> None:
    """Tell the sender of a refused stream once, so that it does not wait."""
    task = RxTask.rx_task_map.get(key) if INCOMING.holds(key) else None
    if task is not None:
        task.stop(error)
    elif message.get_header(StreamHeaderKey.SEQUENCE) == 0:
        receiver.reject(message, error)


def _held(task: Any) -> int:
    """The bytes of a stream received so far."""
    if task is None:
        return 0
    early = list(task.out_seq_chunks.values())
    return int(task.received_offset) + sum(len(piece or b"") for _, piece in early)


def _is_over(key: Key, since: float) -> bool:
    """Whether an accepted stream has failed. `_let_go_once_used` releases streams that were used."""
    task = RxTask.rx_task_map.get(key)
    if task is None:
        return False
    if not task.failed and task.stream_future is None and time.monotonic() - since > _READ_SECONDS:
        task.stop(StreamError("its first piece has not arrived"), notify=False)  # FLARE would wait for it forever
    return bool(task.failed)


def _keep_nothing_of_a_failure(own: Callable[..., Any], task: Any, error: Any = None, notify: bool = True) -> None:
    """Free the pieces of a failed stream, which FLARE keeps for a while."""
    own(task, error, notify)
    if task.failed:
        with task.lock:
            task.chunks.clear()
            task.out_seq_chunks.clear()
        INCOMING.drop((task.origin, task.sid))


def _let_go_once_used(own: Callable[..., Any], handler: Any, future: Any, stream: Any, *rest: Any) -> None:
    """Release a stream after FLARE's callback for it has returned; a reply's callback returns while the reply still
    arrives.
    """
    try:
        own(handler, future, stream, *rest)
    finally:
        key = stream.task.origin, stream.task.sid
        future.add_done_callback(lambda: INCOMING.drop(key))


def _queue_if_room(own: Callable[..., Any], queue: Any, frame: Any) -> None:
    """Limit the answers that pile up for a peer that does not read them."""
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
    raise RuntimeError("this process downloads nothing that a message refers to")


def _refuse_file() -> str:
    raise RuntimeError("no message may write files here")


def _drop(*_: Any, **__: Any) -> None:
    """Switch off bulk messages and statistics."""
