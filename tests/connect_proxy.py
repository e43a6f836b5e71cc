"""An HTTP proxy that knows CONNECT and nothing else, as many hospitals have for the way out."""

from __future__ import annotations

import base64
import socket
import threading
from contextlib import suppress
from types import TracebackType

_SECONDS = 10.0
_HEAD_BYTES_MAX = 16_384


class ConnectProxy:
    """Listens until it is left. A context manager."""

    def __init__(self, address: str = "127.0.0.1", credentials: str | None = None) -> None:
        """
        Args:
            address: where it listens, at a free port.
            credentials: NAME:PASSWORD that it wants to have; else it asks for none.
        """
        self._listener = socket.create_server((address, 0))
        self._wanted = f"Basic {base64.b64encode(credentials.encode()).decode()}" if credentials else None
        self._open: set[socket.socket] = set()
        self.heads: list[bytes] = []
        """Every request that came, up to its empty line."""
        self.carried = bytearray()
        """What clients sent through tunnels, as the proxy sees it."""

    @property
    def url(self) -> str:
        host, port = self._listener.getsockname()
        return f"http://{host}:{port}"

    def __enter__(self) -> ConnectProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.break_off()

    def break_off(self) -> None:
        """End every tunnel, as a proxy does that is started anew."""
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError, ValueError), client:
            client.settimeout(_SECONDS)
            head = b""
            while b"\r\n\r\n" not in head and len(head) < _HEAD_BYTES_MAX:
                part = client.recv(4096)
                if not part:
                    return
                head += part
            self.heads.append(head)
            first, *fields = head.decode("latin-1").split("\r\n")
            method, target, _ = first.split(" ")
            if method != "CONNECT":
                client.sendall(b"HTTP/1.1 405 Method Not Allowed\r\n\r\n")
                return
            if self._wanted is not None and f"proxy-authorization: {self._wanted}".lower() not in [
                each.lower() for each in fields
            ]:
                client.sendall(b'HTTP/1.1 407 Who are you\r\nProxy-Authenticate: Basic realm="x"\r\n\r\n')
                return
            host, _, port = target.rpartition(":")
            try:
                server = socket.create_connection((host, int(port)), timeout=_SECONDS)
            except OSError:
                client.sendall(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
                return
            with server:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                self._open |= {client, server}
                for each in (client, server):
                    each.settimeout(None)
                back = threading.Thread(target=_pump, args=(server, client, bytearray()), daemon=True)
                back.start()
                _pump(client, server, self.carried)
                back.join()
                self._open -= {client, server}


def _pump(source: socket.socket, sink: socket.socket, seen: bytearray) -> None:
    with suppress(OSError):
        while part := source.recv(65_536):
            seen += part
            sink.sendall(part)
    for each in (source, sink):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
