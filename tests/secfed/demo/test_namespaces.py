"""A network of our own on this machine: everybody reaches everybody, until a cable is pulled, and nothing is left."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from secfed.demo.namespaces import Namespaces

pytestmark = pytest.mark.skipif(not Namespaces.possible(), reason="needs root and `ip`, to make network namespaces")
LISTEN = """
import socket, sys
with socket.create_server((sys.argv[1], 8002)) as server:
    print("ready", flush=True)
    while True:
        server.accept()[0].close()
"""
CALL = "import socket, sys; socket.create_connection((sys.argv[1], 8002), 1).close()"


def reaches(namespaces: Namespaces, prefix: list[str]) -> bool:
    address = namespaces.address("server")
    done = subprocess.run([*prefix, sys.executable, "-c", CALL, address], capture_output=True, check=False)
    return done.returncode == 0


def listed() -> str:
    """The namespaces of this machine, and its interfaces."""
    commands = (["ip", "netns", "list"], ["ip", "-brief", "link"])
    return "".join(subprocess.run(each, capture_output=True, text=True, check=True).stdout for each in commands)


def test_a_cable_that_is_pulled_cuts_one_participant_off_until_it_is_put_in_again() -> None:
    with Namespaces(("server", "one", "other")) as namespaces:
        command = [*namespaces.inside("server"), sys.executable, "-c", LISTEN, namespaces.address("server")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
            try:
                assert server.stdout is not None
                assert server.stdout.readline() == b"ready\n"
                one, other = namespaces.inside("one"), namespaces.inside("other")
                assert all(reaches(namespaces, prefix) for prefix in ([], one, other))
                namespaces.cut("one")
                assert [reaches(namespaces, prefix) for prefix in ([], one, other)] == [True, False, True]
                namespaces.mend("one")
                assert reaches(namespaces, one)
            finally:
                server.kill()
        assert f"secfed-{os.getpid()}-wire" in listed()
    assert f"secfed-{os.getpid()}-" not in listed()


def test_what_a_killed_process_left_is_removed_by_the_next() -> None:
    made_and_killed = (
        "import os, signal\nfrom secfed.demo.namespaces import Namespaces\n"
        "with Namespaces(('server',)):\n    print(os.getpid(), flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", made_and_killed], capture_output=True, text=True, check=False)
    left = f"secfed-{done.stdout.strip()}-"
    assert left in listed()
    with Namespaces(("server",)):
        assert left not in listed()
