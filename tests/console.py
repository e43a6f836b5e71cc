"""Pages of the documentation whose commands are run: `python -m tests.console docs/node.md` writes what they print.

A block of ```console holds commands, each after a `$ `, and what they printed on a terminal. `<!-- run: ... -->` is run
where it stands and not shown. All commands of a page run in one folder that is laid out by `lay_out`, one after the
other, as one user's. Where a command asks something, the answer is yes.

`masked` takes out what is another at every run or machine: digests, fingerprints, times, versions, free disk.
"""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from secfed.demo.workspace import DemoSettings, prepare_demo
from secfed.errors import UserError
from secfed.node.home import Home

ROOT = Path(__file__).resolve().parent.parent
HOME_SHOWN = "/home/clinic"
HOSPITAL = "harbour-clinic"
_STEP = re.compile(r"^<!-- run: (?P<hidden>[^\n]*) -->$|^```console\n(?P<shown>.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^\$ (.*)$", re.MULTILINE)
_QUESTION = b"[y/N]: "
_SECONDS_MAX = 240


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A folder in which a user at a terminal types commands."""

    folder: Path

    def run(self, command: str) -> str:
        """What a command prints on its terminal."""
        master, slave = pty.openpty()
        try:
            process = subprocess.Popen(
                ["bash", "-c", command],
                cwd=self.folder,
                env=self._environment(),
                stdin=slave,
                stdout=slave,
                stderr=slave,
            )
            os.close(slave)
            printed = b"".join(_printed(master))
            process.wait()
        finally:
            os.close(master)
        text = printed.decode().replace("\r\n", "\n").replace(str(self.folder), HOME_SHOWN)
        return text if text.endswith("\n") or not text else text + "\n"

    def _environment(self) -> dict[str, str]:
        try:
            identity = Home.open(self.folder / ".secfed").identity.public.raw.hex()
        except UserError:
            identity = ""
        return {
            **os.environ,
            "HOME": str(self.folder),
            "IDENTITY": identity,
            "PATH": f"{self.folder / '.bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "SECFED_HOME": "",
            "TERM": "dumb",
        }


def _printed(master: int) -> Iterator[bytes]:
    """What comes until the other end is closed; each question is answered with yes."""
    ends, seen = time.monotonic() + _SECONDS_MAX, b""
    while select.select([master], [], [], max(0.0, ends - time.monotonic()))[0]:
        try:
            part = os.read(master, 65_536)
        except OSError:  # Linux: nobody has the terminal open any more
            return
        if not part:
            return
        yield part
        seen = (seen + part)[-len(_QUESTION) :]
        if seen == _QUESTION:
            os.write(master, b"y\n")
    raise TimeoutError("a command of the page takes too long")


def lay_out(folder: Path, settings: DemoSettings | None = None, base: Path | None = None) -> Sandbox:
    """What a hospital has on its disk: its letters, and from the organiser a study without it and the base model."""
    workspace = folder / "demo"
    study = prepare_demo(workspace, settings=settings, base=base)
    own = re.compile(rf'\[\[roster\]\]\nname = "{HOSPITAL}"\nidentity = "[0-9a-f]+"\n')
    (folder / "study.toml").write_text(
        own.sub(f'[[roster]]\nname = "{HOSPITAL}"\nidentity = "IDENTITY"\n', study.read_text())
    )
    (workspace / "model").rename(folder / "model")
    (workspace / "sites" / HOSPITAL / "patients.jsonl").rename(folder / "letters.jsonl")
    return furnish(folder)


def furnish(folder: Path) -> Sandbox:
    """A folder with the command, and a hospital's FHIR export."""
    shutil.copytree(ROOT / "tests" / "secfed" / "models" / "data" / "fhir_sample", folder / "export")
    command = folder / ".bin" / "secfed"
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'from secfed.cli import main; main()' \"$@\"\n")
    command.chmod(0o755)
    return Sandbox(folder)


def played(page: str, sandbox: Sandbox) -> str:
    """The page with what its commands print now."""

    def step(match: re.Match[str]) -> str:
        if match["hidden"] is not None:
            sandbox.run(match["hidden"])
            return match[0]
        lines = []
        for command in _COMMAND.findall(match["shown"]):
            lines += [f"$ {command}\n", sandbox.run(command)]
        return f"```console\n{''.join(lines)}```"

    return _STEP.sub(step, page)


def masked(text: str) -> str:
    """The text without what is another at every run or machine."""
    text = re.sub(r"([0-9a-f]{4} ){9}[0-9a-f]{4}", "FINGERPRINT", text)
    text = re.sub(r"\b[0-9a-f]{16,}\b", "DIGEST", text)
    text = re.sub(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d:\d\d(\+00:00| UTC)?)?", "TIME", text)
    text = re.sub(r"\b\d+\.\d+\.\d+\b|\b\d+ libraries\b", "VERSION", text)
    return re.sub(r"[\d.]+ GiB", "SIZE", text)


def main() -> None:
    """Write pages anew."""
    for name in sys.argv[1:]:
        page = Path(name)
        with tempfile.TemporaryDirectory() as folder:
            page.write_text(played(page.read_text(), lay_out(Path(folder))))


if __name__ == "__main__":
    main()
