"""One cell of FLARE's, as server or site, in a process of its own, and what a peer that follows no rule sends it.

Run as a program it is told what to do by lines of JSON, and answers each with one line.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[1]
MIB = 1 << 20


def peak_mib(pid: int | str = "self") -> float:
    """The most memory that a process has held so far (VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


class CellProcess:
    """A cell in a process; "server" listens, any other name connects to it."""

    def __init__(self, name: str, port: int, *, bounded: bool) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cells", name, str(port), str(int(bounded))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
        )
        assert self._answer() == "ready"

    def __enter__(self) -> CellProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    def do(self, what: str, **arguments: Any) -> Any:
        """Have it do this."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"what": what, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("="):
                return json.loads(line[1:])
        raise AssertionError("the cell has ended")


def send_pieces(cell: Any, target: str, size: int, first: int, pieces: int, each: int, headers: dict[str, Any]) -> int:
    """Pieces of one stream that says it has `size` bytes; its last is never sent. Gives the stream's number."""
    from nvflare.fuel.f3.cellnet.defs import CellChannel
    from nvflare.fuel.f3.message import Message
    from nvflare.fuel.f3.streaming.stream_const import (
        STREAM_CHANNEL,
        STREAM_DATA_TOPIC,
        StreamDataType,
        StreamHeaderKey,
    )
    from nvflare.fuel.f3.streaming.stream_utils import gen_stream_id

    number = gen_stream_id()
    for sequence in range(first, first + pieces):
        stated = {
            StreamHeaderKey.STREAM_ID: number,
            StreamHeaderKey.CHANNEL: CellChannel.RETURN_ONLY,
            StreamHeaderKey.TOPIC: "anything",
            StreamHeaderKey.SIZE: size,
            StreamHeaderKey.SEQUENCE: sequence,
            StreamHeaderKey.DATA_TYPE: StreamDataType.CHUNK,
            StreamHeaderKey.OPTIONAL: True,
        }
        message = Message({**stated, **headers}, bytes(each))
        cell.fire_and_forget(STREAM_CHANNEL, STREAM_DATA_TOPIC, target, message, optional=True)
    return number


class _Cell:
    """What a line of JSON makes it do, by the method's name."""

    def __init__(self, name: str, port: int, bounded: bool) -> None:
        from nvflare.fuel.f3.cellnet.cell import Cell
        from nvflare.fuel.f3.cellnet.utils import make_reply

        if bounded:
            from secfed.engines.flare.bounds import bound_memory

            bound_memory()
        self.cell = Cell(name, f"grpc://127.0.0.1:{port}", False, {})
        self.cell.core_cell.start()
        echo = lambda request: make_reply("ok", body=request.payload)  # noqa: E731
        self.cell.register_request_cb(channel="study", topic="echo", cb=echo)
        for _ in range(150):
            if name == "server" or "server" in self.cell.core_cell.agents:
                break
            time.sleep(0.1)

    def peak(self) -> float:
        return peak_mib()

    def remembered(self) -> int:
        from nvflare.fuel.f3.streaming.byte_receiver import RxTask

        return len(RxTask.rx_task_map)

    def allow(self, size: int, peers: int) -> None:
        from secfed.engines.flare.bounds import INCOMING

        INCOMING.allow(lambda: size, peers)

    def declare(self, target: str, size: int, streams: int = 1) -> None:
        for _ in range(streams):
            send_pieces(self.cell.core_cell, target, size, 0, 1, 1, {})

    def start_late(self, target: str, size: int, streams: int, pieces: int) -> None:
        """All pieces but the first, for which the others are kept."""
        for _ in range(streams):
            send_pieces(self.cell.core_cell, target, size, 1, pieces, MIB, {})

    def fail(self, target: str, streams: int) -> None:
        """Streams that fail after 2 MiB of the 4 that they say, and that FLARE is asked to remember for an hour."""
        from nvflare.fuel.f3.message import Message
        from nvflare.fuel.f3.streaming.stream_const import STREAM_CHANNEL, STREAM_DATA_TOPIC, StreamHeaderKey

        lasting = {StreamHeaderKey.RELIABLE: True, StreamHeaderKey.RETRY_TIMEOUT: 3000, StreamHeaderKey.RETRY_WAIT: 600}
        for _ in range(streams):
            number = send_pieces(self.cell.core_cell, target, 4 * MIB, 1, 2, MIB, lasting)
            ending = Message({StreamHeaderKey.STREAM_ID: number, StreamHeaderKey.ERROR_MSG: "ended"}, b"")
            self.cell.core_cell.fire_and_forget(STREAM_CHANNEL, STREAM_DATA_TOPIC, target, ending, optional=True)

    def ask_and_not_read(self, target: str, requests: int) -> None:
        """Requests of 1 MiB, whose answers have it, too, and nothing is read any more."""
        from nvflare.fuel.f3.cellnet.core_cell import TargetMessage
        from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey
        from nvflare.fuel.f3.message import Message
        from nvflare.fuel.f3.sfm.conn_manager import SfmFrameReceiver

        SfmFrameReceiver.process_frame = lambda *_: threading.Event().wait()
        for number in range(requests):
            expecting = {MessageHeaderKey.REPLY_EXPECTED: True, MessageHeaderKey.REQ_ID: str(number)}
            message = TargetMessage(target, "study", "echo", Message(expecting, bytes(MIB))).message
            message.set_header(MessageHeaderKey.OPTIONAL, True)
            self.cell.core_cell._send_target_messages({target: TargetMessage(target, "study", "echo", message)})

    def frame(self, target: str, size: int) -> None:
        """One message, not in pieces."""
        from nvflare.fuel.f3.message import Message

        self.cell.core_cell.fire_and_forget("study", "echo", target, Message({}, bytes(size)), optional=True)

    def parse(self, target: str, lists: int) -> None:
        """A message of so many empty lists, of one byte each."""
        from nvflare.fuel.f3.cellnet.defs import Encoding, MessageHeaderKey
        from nvflare.fuel.f3.message import Message
        from nvflare.fuel.utils.fobs.lobs import HEADER_STRUCT, MARKER_MAIN

        body = b"\xdd" + lists.to_bytes(4, "big") + b"\x90" * lists
        message = Message(
            {MessageHeaderKey.PAYLOAD_ENCODING: Encoding.FOBS}, HEADER_STRUCT.pack(MARKER_MAIN, 0, len(body)) + body
        )
        self.cell.core_cell.fire_and_forget("study", "echo", target, message, optional=True)

    def echo(self, target: str, size: int) -> bool:
        """Whether so much goes there and back."""
        from nvflare.fuel.f3.message import Message

        sent = bytes(size)
        came = self.cell.send_request(
            channel="study", topic="echo", target=target, request=Message({}, sent), timeout=5.0, optional=True
        )
        return bytes(came.payload or b"") == sent


def main(name: str, port: str, bounded: str) -> None:
    """Do what standard input says."""
    cell = _Cell(name, int(port), bounded == "1")
    print('="ready"', flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print("=" + json.dumps(getattr(cell, asked.pop("what"))(**asked)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
