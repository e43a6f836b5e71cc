"""Connects to a server through an HTTP proxy with CONNECT (RFC 9110, 9.3.6), if the environment names one.

It chooses the proxy by gRPC's rules, because a node dials with gRPC: a check over another route would prove nothing
about the node. These rules are narrower than those of other programs: upper-case variables are ignored; of
`grpc_proxy`, `https_proxy` and `http_proxy`, the first that is set counts, even if empty; and `*` in `no_proxy`
excludes nothing. After the proxy's answer, everything comes from the server, or TLS ends the connection.
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
    """NAME:PASSWORD, if it requires them."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def proxy_for(host: str, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy for this host; None if it is dialled directly.

    Args:
        host: a name, or an address.
        environ: the environment's variables.

    Raises:
        UserError: a variable's value is not a proxy by gRPC's rules. gRPC would dial directly, and only log it.
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
        raise UserError(  # its value may contain a password, and is not shown
            f"the variable {variable} does not name a proxy that a node can use",
            f"Set it as {variable}=http://HOST:PORT; a TLS connection to the proxy itself is not supported",
        )
    who, at, _ = parts.netloc.rpartition("@")
    return Proxy(name, port, unquote(who) if at else None)


def ignored(environ: Mapping[str, str]) -> list[str]:
    """Variables that other programs read as a proxy, but a node ignores."""
    if any(each in environ for each in PROXIES):
        return []
    return [each for each in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "all_proxy") if environ.get(each)]


def ask(connection: socket.socket, proxy: Proxy, host: str, port: int, seconds: float) -> None:
    """Ask a connected proxy to connect to a server. After that, the connection leads to the server.

    Args:
        connection: the connection to the proxy.
        proxy: which one it is.
        host, port: the server's; the proxy resolves them.
        seconds: time limit for its whole answer.

    Raises:
        UserError: it does not connect; says what to do.
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
            f"no answer from the proxy {proxy} ({reason})", "Check that this is an HTTP proxy, and its port"
        ) from error
    found = _STATUS_LINE.match(head)
    if found is None or not head.endswith(_HEAD_END):
        raise UserError(
            f"{proxy} is not an HTTP proxy, or sends more than its answer",
            "Check the address: it must be an HTTP proxy that supports CONNECT",
        )
    status = int(found[1])
    if not 200 <= status < 300:
        raise UserError(f"the proxy {proxy} does not connect to {where}: it answers {status}", _mend(status, where))


def _head(connection: socket.socket, request: bytes, seconds: float) -> bytes:
    """The answer up to an empty line, the end, or the size limit. The server waits for us, so nothing may follow."""
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
        return "It requires credentials: add them to the variable, as http://NAME:PASSWORD@HOST:PORT"
    if status >= 500:
        return "Check the server's address, that the server runs, and that its firewall lets the proxy in"
    return f"Ask the proxy's administrator to allow CONNECT to {where}; many proxies allow only port 443"


def _covers(entry: str, host: str) -> bool:
    """Whether an entry of `no_proxy` is this host, a parent domain, or a network that contains it."""
    if not entry:
        return False
    with suppress(ValueError):
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    domain = entry.lower().removeprefix(".")
    return host.lower() == domain or host.lower().endswith(f".{domain}")
