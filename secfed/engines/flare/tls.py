"""Checks that the server shows the right certificate and accepts this node's. For `secfed doctor`.

It sends only a greeting. If an HTTP server reports its time, that is used; other servers, such as an engine's, report
none. If the environment names a proxy, the check goes through it, as a node would.
"""

from __future__ import annotations

import os
import socket
import ssl
import stat
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from secfed.engines.flare.proxy import ask, ignored, proxy_for
from secfed.errors import UserError
from secfed.files.whole import open_to_others

_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 3.0
_ANSWER_BYTES_MAX = 16_384
_GIVE_CERTIFICATE = (
    "Pass this node's own certificate and key from its start-up kit with --cert and --key; if you did, check that "
    "they belong to this server's federation and have not expired"
)


class _ClosedAtOnce(Exception):
    """The server accepted the handshake and then closed: some servers refuse a client's certificate this way."""


@dataclass(frozen=True, slots=True)
class Server:
    """The server's address, and this node's certificate for it."""

    host: str
    port: int
    ca: Path
    """The CA certificate that issued the server's, from the start-up kit."""
    certificate: Path | None = None
    key: Path | None = None


def parse_address(text: str) -> tuple[str, int]:
    """Parse HOST:PORT. Raises UserError if it is not one."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not port.isascii() or len(port) > 5 or not 0 < int(port) < 1 << 16:
        raise UserError(f"{text} is not a server address", "Pass it as --server HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


@dataclass(frozen=True, slots=True)
class Greeting:
    """How a server answered."""

    text: str
    """The good result, in one line."""
    until: datetime
    """When its certificate expires."""
    time: datetime | None
    """Its clock, if it reports it."""


def greet(server: Server) -> Greeting:
    """Connect with TLS.

    Returns:
        The server's answer.

    Raises:
        UserError: what is wrong, and the next step.
    """
    context = _context(server)
    proxy = proxy_for(server.host, os.environ)
    where = f"{server.host}:{server.port}" + (f" through the proxy {proxy}" if proxy else "")
    connection = _connect(server.host, server.port) if proxy is None else _connect(proxy.host, proxy.port, "the proxy ")
    with connection:
        if proxy is not None:
            ask(connection, proxy, server.host, server.port, _CONNECT_SECONDS)
        try:
            with context.wrap_socket(connection, server_hostname=server.host) as secure:
                until = _expiry(secure)
                told = f"{secure.version()} with {where}, until {until:%Y-%m-%d}"
                return Greeting(told, until, _time_of(secure, server.host))
        except ssl.SSLCertVerificationError as error:
            opened = ", or the proxy intercepts TLS, which secfed never accepts" if proxy else ""
            raise UserError(
                f"the certificate of {where} is refused: {error.verify_message}", _mend(error) + opened
            ) from error
        except ssl.SSLError as error:
            raise UserError(f"{where} breaks TLS off ({_reason(error)})", _GIVE_CERTIFICATE) from error
        except _ClosedAtOnce as error:
            raise UserError(f"{where} closes the connection after the TLS handshake", _GIVE_CERTIFICATE) from error
        except OSError as error:
            raise UserError(
                f"{where} does not finish the TLS handshake ({error.strerror or error})",
                "Check that this is the server's TLS port, and that no proxy is in between",
            ) from error


def _connect(host: str, port: int, what: str = "") -> socket.socket:
    try:
        return socket.create_connection((host, port), timeout=_CONNECT_SECONDS)
    except OSError as error:
        fix = "Check the address, that the server runs, and that firewall and proxy let this machine connect to it"
        if what:
            fix = "Check the proxy's address, and that this machine may use it"
        elif others := ignored(os.environ):
            fix += f"; {' and '.join(others)} sets a proxy only for other programs: for a node, set grpc_proxy"
        raise UserError(f"cannot connect to {what}{host}:{port} ({error.strerror or error})", fix) from error


def _context(server: Server) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        context.load_verify_locations(server.ca)
    except OSError as error:  # includes SSLError
        raise UserError(
            f"{server.ca} contains no CA certificate to check the server with ({error.strerror or error})",
            "Pass rootCA.pem from this node's start-up kit with --ca",
        ) from error
    if server.certificate is None or server.key is None:
        return context
    try:
        mode = server.key.stat().st_mode
        if open_to_others(mode):
            raise UserError(
                f"other users than its owner can use the TLS key {server.key} (mode {stat.S_IMODE(mode):04o})",
                f"Run `chmod 600 {server.key}`, and get a new key if someone may have read it",
            )
        context.load_cert_chain(server.certificate, server.key)
    except OSError as error:
        raise UserError(
            f"{server.certificate} and {server.key} are not a certificate and its key ({error.strerror or error})",
            "Pass client.crt and client.key from this node's start-up kit",
        ) from error
    return context


def _mend(error: ssl.SSLCertVerificationError) -> str:
    message = error.verify_message.lower()
    if "expired" in message:
        return "Check this machine's clock; if it is right, ask for the server's certificate to be renewed"
    if "not yet valid" in message:
        return "Check this machine's clock: according to it, the certificate is not valid yet"
    if "hostname" in message or "ip address" in message:
        return "Connect to the name in the certificate, or ask for a certificate for this name"
    return "Pass the CA of the federation's own start-up kit; if it is that one, someone else answers: stop and ask"


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")


def _expiry(secure: ssl.SSLSocket) -> datetime:
    until = (secure.getpeercert() or {}).get("notAfter", "")
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(until)), UTC)


def _time_of(secure: ssl.SSLSocket, host: str) -> datetime | None:
    """The server's clock. In TLS 1.3 a server that refuses this node's certificate says so only in its first answer."""
    for line in _first_answer(secure, host).split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"date":
            with suppress(ValueError, TypeError):
                return parsedate_to_datetime(value.strip().decode("ascii", "replace")).astimezone(UTC)
    return None


def _first_answer(secure: ssl.SSLSocket, host: str) -> bytes:
    """What the server sends first (HTTP/2), or as answer to an HTTP greeting; empty if it waits for something else."""
    secure.settimeout(_ANSWER_SECONDS)
    speaks_first = secure.selected_alpn_protocol() == "h2"
    answer = b""
    with suppress(TimeoutError):
        if not speaks_first:
            secure.sendall(f"HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        while len(answer) < _ANSWER_BYTES_MAX and b"\r\n\r\n" not in answer:
            part = secure.recv(4096)
            if not part and not answer:
                raise _ClosedAtOnce
            answer += part
            if not part or speaks_first:
                break
    return answer
