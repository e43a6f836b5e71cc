"""Which proxy leads to a server, as gRPC decides it, and that only a proxy's strict answer is taken for one."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from secfed.engines.flare.proxy import PROXIES, Proxy, ask, proxy_for
from secfed.engines.flare.tls import Server, greet
from secfed.errors import UserError
from tests.connect_proxy import ConnectProxy
from tests.tls import Authority, serving

NAME = "sum.example"
ONE, OTHER = "http://one.example:3128", "http://other.example:3128"


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in os.environ if each.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("variable", PROXIES)
def test_each_variable_that_a_node_reads_names_the_proxy(variable: str) -> None:
    assert proxy_for(NAME, {variable: f"{ONE}/"}) == Proxy("one.example", 3128)


@pytest.mark.parametrize(
    ("environ", "through"),
    [
        ({}, False),
        ({"HTTPS_PROXY": ONE}, False),
        ({"all_proxy": ONE}, False),
        ({"grpc_proxy": ONE, "https_proxy": OTHER}, True),
        ({"https_proxy": ONE, "http_proxy": OTHER}, True),
        ({"grpc_proxy": "", "https_proxy": ONE}, False),
        ({"grpc_proxy": ONE, "no_proxy": f"localhost, {NAME}"}, False),
        ({"grpc_proxy": ONE, "no_proxy": NAME.upper()}, False),
        ({"grpc_proxy": ONE, "no_proxy": ".example"}, False),
        ({"grpc_proxy": ONE, "no_proxy": "example"}, False),
        ({"grpc_proxy": ONE, "no_proxy": "um.example"}, True),
        ({"grpc_proxy": ONE, "no_proxy": f"{NAME}:8002"}, True),
        ({"grpc_proxy": ONE, "no_proxy": "*"}, True),
        ({"grpc_proxy": ONE, "NO_PROXY": NAME}, True),
        ({"grpc_proxy": ONE, "no_grpc_proxy": NAME}, False),
        ({"grpc_proxy": ONE, "no_grpc_proxy": "", "no_proxy": NAME}, True),
    ],
)
def test_the_proxy_is_the_one_that_grpc_takes(environ: dict[str, str], through: bool) -> None:
    """Each line was tried with a gRPC channel and a proxy that records who comes."""
    assert proxy_for(NAME, environ) == (Proxy("one.example", 3128) if through else None)


@pytest.mark.parametrize(("entry", "through"), [("10.0.0.0/8", False), ("10.1.2.3", False), ("10.2.0.0/16", True)])
def test_an_address_is_excepted_by_itself_or_its_network(entry: str, through: bool) -> None:
    assert (proxy_for("10.1.2.3", {"grpc_proxy": ONE, "no_proxy": entry}) is not None) == through


@pytest.mark.parametrize(
    "value", ["one.example:3128", "https://one.example:3128", "http://one.example", "http://x:y", "http://a:1/path"]
)
def test_a_variable_that_grpc_would_pass_over_is_an_error(value: str) -> None:
    with pytest.raises(UserError, match="does not name a proxy that a node can use"):
        proxy_for(NAME, {"grpc_proxy": value})


def test_a_password_is_not_shown() -> None:
    proxy = proxy_for(NAME, {"grpc_proxy": "http://me:se%20cret@one.example:3128"})
    assert proxy is not None
    assert proxy.credentials == "me:se cret"
    assert "cret" not in f"{proxy} {proxy!r}"
    with pytest.raises(UserError) as caught:
        proxy_for(NAME, {"grpc_proxy": "https://me:secret@one.example:3128"})
    assert "secret" not in str(caught.value)


@contextmanager
def answering(answer: bytes, pause: float = 0.0) -> Iterator[Proxy]:
    """Something that is asked once and answers this: at once, or byte by byte with a pause after each."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError), listener.accept()[0] as client:
                client.recv(4096)
                for part in [answer] if not pause else [bytes([each]) for each in answer]:
                    client.sendall(part)
                    time.sleep(pause)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Proxy(*listener.getsockname())
    thread.join(timeout=10)


def answer_to(proxy: Proxy, seconds: float = 5.0) -> None:
    with socket.create_connection((proxy.host, proxy.port)) as connection:
        ask(connection, proxy, NAME, 8002, seconds)


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.0 200\r\n\r\n", b"HTTP/1.1 204 As you like\r\nVia: 1.1 one\r\n\r\n"]
)
def test_a_proxy_that_leads_on_is_taken(answer: bytes) -> None:
    with answering(answer) as proxy:
        answer_to(proxy)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\n\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b" HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n\x16\x03\x03",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    ],
)
def test_what_is_no_answer_of_a_proxy_is_refused(answer: bytes) -> None:
    with answering(answer) as proxy, pytest.raises(UserError, match=r"not an HTTP proxy|no answer from"):
        answer_to(proxy)


def test_an_answer_that_drips_is_not_waited_for() -> None:
    with answering(b"HTTP/1.1 200 OK\r\n\r\n", pause=0.1) as proxy:
        start = time.monotonic()
        with pytest.raises(UserError, match="no answer from the proxy"):
            answer_to(proxy, seconds=0.5)
        assert time.monotonic() - start < 1.5


@pytest.mark.parametrize(
    ("status", "fix"),
    [(403, "allow CONNECT to sum.example:8002"), (405, "allow CONNECT"), (407, "credentials"), (502, "firewall")],
)
def test_a_proxy_that_does_not_lead_on_is_named_with_a_fix(status: int, fix: str) -> None:
    with answering(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode()) as proxy:
        with pytest.raises(UserError, match=f"it answers {status}") as caught:
            answer_to(proxy)
        assert str(proxy) in caught.value.what
        assert fix in caught.value.next_step


@pytest.mark.parametrize("credentials", [None, "me:se cret"])
def test_the_greeting_goes_through_the_proxy_and_stays_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, credentials: str | None
) -> None:
    authority = Authority.make(tmp_path / "ca")
    certificate, key = authority.issue("node")
    answer = b"HTTP/1.1 404 Not Found\r\n\r\n"
    with (
        ConnectProxy(credentials=credentials) as proxy,
        serving(authority.issue("127.0.0.1"), client_ca=authority.path, answer=answer) as port,
    ):
        url = proxy.url.replace("://", "://me:se%20cret@") if credentials else proxy.url
        monkeypatch.setenv("grpc_proxy", url)
        told = greet(Server("127.0.0.1", port, authority.path, certificate, key)).text
        assert f"through the proxy {proxy.url.removeprefix('http://')}" in told
        assert proxy.heads[0].startswith(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n".encode())
        assert proxy.carried
        assert b"HEAD /" not in proxy.carried


def test_a_proxy_that_opens_tls_is_not_taken_for_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = Authority.make(tmp_path / "ours"), Authority.make(tmp_path / "theirs")
    with ConnectProxy() as proxy, serving(theirs.issue("127.0.0.1")) as port:
        monkeypatch.setenv("grpc_proxy", proxy.url)
        with pytest.raises(UserError, match=r"through the proxy .* is refused") as caught:
            greet(Server("127.0.0.1", port, ours.path))
        assert "proxy intercepts TLS" in caught.value.next_step


def test_a_proxy_that_is_not_there_and_one_that_a_node_does_not_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server("127.0.0.1", 1, Authority.make(tmp_path / "ca").path)
    monkeypatch.setenv("HTTPS_PROXY", ONE)
    with pytest.raises(UserError, match=r"cannot connect to 127\.0\.0\.1:1 ") as caught:
        greet(server)
    assert "HTTPS_PROXY" in caught.value.next_step
    assert "grpc_proxy" in caught.value.next_step
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:2")
    with pytest.raises(UserError, match=r"cannot connect to the proxy 127\.0\.0\.1:2"):
        greet(server)
