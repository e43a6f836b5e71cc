"""The way to a server through an HTTP proxy, with CONNECT (RFC 9110, 9.3.6), where the environment names one.

Which one, is decided as gRPC decides it, which a node dials with: a check that took another way than the node would
say nothing about the node. Its rules are narrower than those of other programs: variables in capitals are not looked
at, of `grpc_proxy`, `https_proxy` and `http_proxy` the first that is set counts, even where it is empty, and `*` in
`no_proxy` excepts nothing. Everything after the proxy's answer is the server's, or is broken off by TLS.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from secfed.errors import UserError

PROXIES, EXCEPTIONS = ("grpc_proxy", "https_proxy", "http_proxy"), ("no_grpc_proxy", "no_proxy")
_HEAD_BYTES_MAX = 8192
_HEAD_END = b"\r\n\r\n"
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?\r\n")


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy."""

    host: str
    port: int
    credentials: str | None = field(default=None, repr=False)
    """NAME:PASSWORD, where it wants them."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def proxy_for(host: str, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy that leads to this host; none where it is dialled directly.

    Args:
        host: a name, or an address.
        environ: the environment's variables.

    Raises:
        UserError: a variable holds what gRPC does not take for a proxy. It would dial directly, and say so in a log.
    """
    variable = next((each for each in PROXIES if each in environ), None)
    if variable is None or not environ[variable]:
        return None
    excepted = next((environ[each] for each in EXCEPTIONS if each in environ), "")
    if any(_covers(each.strip(), host) for each in excepted.split(",")):
        return None
    try:
        parts = urlsplit(environ[variable])
        name, port = parts.hostname, parts.port
    except ValueError:
        parts, name, port = urlsplit(""), None, None
    if parts.scheme != "http" or not name or not port or parts.path.strip("/") or parts.query or parts.fragment:
        raise UserError(  # its value may hold a password, and is not shown
            f"the variable {variable} names no proxy that a node can use",
            f"Set it as {variable}=http://HOST:PORT; a proxy that is itself spoken to with TLS is not supported",
        )
    who, at, _ = parts.netloc.rpartition("@")
    return Proxy(name, port, unquote(who) if at else None)


def ignored(environ: Mapping[str, str]) -> list[str]:
    """Variables that name a proxy to other programs, and not to a node."""
    if any(each in environ for each in PROXIES):
        return []
    return [each for each in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "all_proxy") if environ.get(each)]


def ask(connection: socket.socket, proxy: Proxy, host: str, port: int, seconds: float) -> None:
    """Have a proxy that is connected lead on to a server. After that the connection is the server's.

    Args:
        connection: to the proxy.
        proxy: which one it is.
        host, port: the server's, for the proxy to look up.
        seconds: within which its whole answer has to be there.

    Raises:
        UserError: it does not, with what to do about it.
    """
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {where} HTTP/1.1", f"Host: {where}"]
    if proxy.credentials is not None:
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(proxy.credentials.encode()).decode()}")
    try:
        request = "\r\n".join([*lines, "", ""]).encode("ascii")
        head = _head(connection, request, seconds)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"the proxy {proxy} does not answer ({reason})", "Check that this is an HTTP proxy, and its port"
        ) from error
    found = _STATUS_LINE.match(head)
    if found is None or not head.endswith(_HEAD_END):
        raise UserError(
            f"what answers at {proxy} is no HTTP proxy, or sends more than its answer",
            "Check the address: it has to be an HTTP proxy that knows CONNECT",
        )
    status = int(found[1])
    if not 200 <= status < 300:
        raise UserError(f"the proxy {proxy} does not lead to {where}: it answers {status}", _mend(status, where))


def _head(connection: socket.socket, request: bytes, seconds: float) -> bytes:
    """What is answered until an empty line, the end, or too much. The server waits for us: nothing may follow it."""
    end = time.monotonic() + seconds
    connection.settimeout(seconds)
    connection.sendall(request)
    head = b""
    while _HEAD_END not in head and len(head) <= _HEAD_BYTES_MAX:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        connection.settimeout(left)
        part = connection.recv(1024)
        if not part:
            break
        head += part
    connection.settimeout(seconds)
    return head


def _mend(status: int, where: str) -> str:
    if status == 407:
        return "It wants credentials: give them in the variable, as http://NAME:PASSWORD@HOST:PORT"
    if status >= 500:
        return "Check the server's address, that it runs, and that its firewall lets the proxy in"
    return f"Have whoever runs the proxy allow CONNECT to {where}; many allow it to port 443 alone"


def _covers(entry: str, host: str) -> bool:
    """Whether an entry of `no_proxy` is this host, a domain above it, or a network that it is in."""
    if not entry:
        return False
    with suppress(ValueError):
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    domain = entry.lower().removeprefix(".")
    return host.lower() == domain or host.lower().endswith(f".{domain}")
