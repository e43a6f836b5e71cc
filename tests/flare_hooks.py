"""What tests put into single processes of a federation: a `sitecustomize.py`, which Python runs before the program.

Nothing of it is in the product. The server's make it a compromised one, or write down what comes; a site's make it
fail.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

_SERVING = """
import json, pathlib, sys, threading, time

def serve(folder):
    while True:
        for path in folder.glob("*.request"):
            from nvflare.fuel.f3.cellnet.core_cell import CoreCell
            from nvflare.private.admin_defs import Message
            from nvflare.private.defs import CellChannel, new_cell_message
            if not getattr(CoreCell.ALL_CELLS.get(CELL), "agents", None):
                continue  # connected to nobody yet
            asked = json.loads(path.read_text())
            path.unlink()
            part = path.with_suffix(".part")
            if "size" in asked:
                from tests.cells import send_pieces
                send_pieces(CoreCell.ALL_CELLS[CELL], asked["site"], asked["size"], 0, 1, 1, {})
                part.write_text("null")
                part.rename(path.with_suffix(".answer"))
                continue
            answer = CoreCell.ALL_CELLS["server"].send_request(
                channel=CellChannel.CLIENT_MAIN,
                topic=asked["topic"],
                target=asked["site"],
                request=new_cell_message({}, Message(asked["topic"], asked["body"])),
                timeout=20.0,
            )
            part.write_text(json.dumps(getattr(answer.payload, "body", None), default=repr))
            part.rename(path.with_suffix(".answer"))
        time.sleep(0.1)

if any(PROGRAM in each for each in sys.orig_argv):
    threading.Thread(target=serve, args=(pathlib.Path(FOLDER),), daemon=True).start()
"""

_FLOODING = """
import pathlib, threading

def flood(channel, site):
    from secfed.engines.flare.envelope import request_of
    while not pathlib.Path(FOLDER, "enough").exists():
        channel._send(site, request_of(channel._study.digest, b"x"), 5.0)

def exchange(self, requests, *, round_number, stage):
    from secfed.engines.flare.channel import StudyAborted
    sites = [entry.name for entry in self._study.roster]
    threads = [threading.Thread(target=flood, args=(self, site)) for site in 2 * sites]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    raise StudyAborted("the flood is over")

if any("runner_process" in each for each in sys.orig_argv) and pathlib.Path(FOLDER, "flood").exists():
    from secfed.engines.flare.channel import FlareChannel
    FlareChannel.exchange = exchange
"""
_UNBOUNDED_LOGS = """
from secfed.bounded_log import Fold
Fold.admit = lambda *_: 0
"""


def _write(folder: Path, text: str, **values: object) -> Path:
    folder.mkdir(parents=True)
    constants = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    (folder / "sitecustomize.py").write_text(constants + text)
    return folder


class Asking:
    """The attacker's process of the server, or of a site: it sends what FLARE's own never would.

    A server's asks its sites whatever FLARE's would ask them, and never tells them to check it. Either says that a
    stream has any size. A server's jobs flood their sites with one byte a time, once they are told to.
    """

    def __init__(self, folder: Path, cell: str = "server", program: str = "server_train") -> None:
        self.hook = _write(folder / "hook", _SERVING + _FLOODING, FOLDER=str(folder), CELL=cell, PROGRAM=program)
        self._folder = folder
        self._count = 0

    def ask(self, site: str, topic: str, body: str, seconds: float = 60.0) -> Any:
        """The body of the site's answer; None when there is none."""
        return self._do({"site": site, "topic": topic, "body": body}, seconds)

    def declare(self, cell: str, size: int) -> None:
        """Begin a stream that says it has so many bytes."""
        self._do({"site": cell, "size": size}, 60.0)

    def flood(self, *, on: bool) -> None:
        """Have the next job flood its sites, or have it stop."""
        (self._folder / ("flood" if on else "enough")).touch()

    def _do(self, asked: dict[str, Any], seconds: float) -> Any:
        self._count += 1
        path = self._folder / f"{self._count}.part"
        path.write_text(json.dumps(asked))
        path.rename(path.with_suffix(".request"))
        answer, end = path.with_suffix(".answer"), time.monotonic() + seconds
        while not answer.exists():
            assert time.monotonic() < end, f"nothing was sent: {asked}"
            time.sleep(0.1)
        return json.loads(answer.read_text())


def unbounded_logs(folder: Path) -> Path:
    """A site that writes down every line."""
    return _write(folder, _UNBOUNDED_LOGS)


_RECORDING = """
import os, sys, threading
from nvflare.fuel.f3.sfm.conn_manager import SfmFrameReceiver

kind = "job" if any("runner_process" in each for each in sys.orig_argv) else "parent"
lock, inner = threading.Lock(), SfmFrameReceiver.process_frame

def process_frame(self, frame):
    data = b"".join(bytes(each) for each in frame) if isinstance(frame, list) else bytes(frame)
    with lock, open(os.path.join(FOLDER, f"{kind}-{os.getpid()}"), "ab") as file:
        file.write(data)
    inner(self, frame)

SfmFrameReceiver.process_frame = process_frame
"""
_FAILING = """
import json, threading

def record():
    with open(RECORDS) as file:
        return json.loads(file.readline())

from secfed.engines.flare import worker
lock, left = threading.Lock(), TIMES

def once():
    global left
    with lock:
        left -= 1
        return left >= 0
"""
_TRAINING = (
    _FAILING
    + """
honest = worker.answer_of

def contribute(self, *args):
    if once():
        raise ValueError(f"this record cannot be used: {record()}")
    return type(self).honest_contribute(self, *args)

def answer_of(node, approval, request):
    trainer = type(node.parts.trainer)
    if not hasattr(trainer, "honest_contribute"):
        trainer.honest_contribute, trainer.contribute = trainer.contribute, contribute
    return honest(node, approval, request)

worker.answer_of = answer_of
"""
)
_WRITING_DOWN = """
import pathlib

import numpy as np
from protocols.client import Client

honest = Client.submit

def submit(self, vector):
    path = pathlib.Path(FOLDER) / f"{self.config.context.round_number:04d}.npy"
    if path.exists():
        path = path.with_name(f"{path.stem}-again.npy")
    with path.with_suffix(".part").open("wb") as file:
        np.save(file, vector)
    path.with_suffix(".part").rename(path)
    return honest(self, vector)

Client.submit = submit
"""


def _at_first(method: str, then: str) -> str:
    """A site whose first calls of this method of its worker do something else."""
    return (
        _FAILING
        + f"""
honest = worker.NodeWorker.{method}

def instead(self, *arguments):
    if once():
        {then}
    return honest(self, *arguments)

worker.NodeWorker.{method} = instead
"""
    )


def recording_server(folder: Path, received: Path) -> Path:
    """A server whose processes write down every frame that they receive, after TLS, each in a file of its own.

    All of FLARE's drivers hand what they receive to this one object, streams' pieces and replies included, before it is
    parsed. What a process sends itself does not pass there.
    """
    received.mkdir()
    return _write(folder, _RECORDING, FOLDER=str(received))


def failing_in_training(folder: Path, records: Path) -> Path:
    """A site whose first training raises an exception with a record in it, inside the node."""
    return _write(folder, _TRAINING, RECORDS=str(records), TIMES=1)


def failing_at_opening(folder: Path, records: Path) -> Path:
    """A site whose node raises an exception with a record in it when it is opened at first."""
    text = _at_first("_serve", 'raise KeyError(f"this record cannot be read: {record()}")')
    return _write(folder, text, RECORDS=str(records), TIMES=1)


def failing_outside_the_node(folder: Path, records: Path) -> Path:
    """A site that raises an exception with a record in it on FLARE's own thread, past everything that we catch."""
    text = _at_first("ask", 'raise RuntimeError(f"this record breaks everything: {record()}")')
    return _write(folder, text, RECORDS=str(records), TIMES=3)


def telling(folder: Path, text: str, length: int) -> Path:
    """A site that answers the first requests by this text, after so many zeros."""
    told = _at_first("ask", "return bytes(LENGTH) + TEXT.encode()")
    return _write(folder, told, RECORDS="", TIMES=2, TEXT=text, LENGTH=length)


def writing_down(folder: Path, masked: Path) -> Path:
    """A site that writes down every vector that it masks, by its round: what masks hide.

    A second one for a round, which there must never be, is written down beside the first.
    """
    masked.mkdir()
    return _write(folder, _WRITING_DOWN, FOLDER=str(masked))
