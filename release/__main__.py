"""Builds a release into `dist/`: wheel, locks, SBOM and their digests.

* The wheel is built twice from the last commit, in two folders. Nothing is written if the bytes differ. Its times are
  the commit's: whoever builds the same commit with the same setuptools (constraints.txt) gets the same digest.
* The lock has every package that a node and the aggregator need on Linux x86-64, at this Python, each with its digests.
  torch is in a lock of its own, with the CUDA libraries that its build in the package index brings along: a site that
  trains on the CPU takes torch from where it gets it, and leaves that lock out.
* The SBOM (CycloneDX) lists what both locks have.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"

EXTRA = "flare"
"""What nodes and the aggregator run. The demonstration's packages are no part of a deployment."""

TORCH = re.compile(r"(torch|triton|nvidia-.*|cuda-.*)==")
"""torch, and what only its CUDA build needs."""


class ReleaseError(Exception):
    """The release was not made; the message says why."""


def main() -> int:
    """Make the release, print the digests."""
    try:
        check_clean(ROOT)
        DIST.mkdir(exist_ok=True)
        for old in [*DIST.glob("secfed-*"), *DIST.glob("SHA256SUMS")]:
            old.unlink()
        wheel_name, wheel = reproducible_wheel(ROOT)
        (DIST / wheel_name).write_bytes(wheel)
        version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
        write_locks_and_sbom(version)
        print(sums := digests(DIST), end="")
        (DIST / "SHA256SUMS").write_text(sums)
    except ReleaseError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    return 0


def check_clean(root: Path) -> None:
    """Refuse a working tree that is not the last commit: what is released can be found again."""
    if changed := _run(["git", "status", "--porcelain"], root).decode().splitlines():
        raise ReleaseError(f"{len(changed)} files differ from the last commit, first {changed[0][3:]}. Commit them")


def reproducible_wheel(root: Path) -> tuple[str, bytes]:
    """The wheel of the last commit: its name and bytes, the same in two builds."""
    epoch = _run(["git", "log", "-1", "--format=%ct"], root).decode().strip()
    archive = _run(["git", "-c", "tar.umask=0022", "archive", "HEAD"], root)
    (name, first), (_, second) = (_built(archive, epoch, seed) for seed in (1, 2))
    if first != second:
        raise ReleaseError(f"two builds of {name} differ: {_sha256(first)} and {_sha256(second)}")
    return name, first


def _built(archive: bytes, epoch: str, seed: int) -> tuple[str, bytes]:
    """One build, in a folder of its own, with an order of hashing of its own."""
    with tempfile.TemporaryDirectory(prefix=f"build-{seed}-") as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
            packed.extractall(Path(folder, "source"), filter="data")
        options = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--wheel-dir", "."]
        environment = {"SOURCE_DATE_EPOCH": epoch, "PYTHONHASHSEED": str(seed)}
        _run([sys.executable, "-m", "pip", "wheel", *options, "./source"], Path(folder), environment)
        [wheel] = Path(folder).glob("*.whl")
        return wheel.name, wheel.read_bytes()


def write_locks_and_sbom(version: str) -> None:
    """Write lock, torch's lock and SBOM."""
    python = ".".join(platform.python_version_tuple()[:2])
    options = ["--generate-hashes", "--no-header", "--no-annotate", "--quiet", "--extra", EXTRA]
    target = [
        "--python-version",
        python,
        "--python-platform",
        "x86_64-manylinux_2_28",
        "--constraint",
        "constraints.txt",
    ]
    compiled = _run(["uv", "pip", "compile", *options, *target, "pyproject.toml"], ROOT).decode()
    if "://" in compiled:
        raise ReleaseError("the lock names a place to load packages from: leave that to whoever installs")
    lock, torch = split_lock(compiled)
    stem = f"secfed-{version}-cp{python.replace('.', '')}-linux-x86_64"
    (DIST / f"{stem}.lock.txt").write_text(lock)
    (DIST / f"{stem}-torch-cuda.lock.txt").write_text(torch)
    sbom = DIST / f"{stem}.sbom.cdx.json"
    formats = ["--pyproject", "pyproject.toml", "--output-reproducible", "--output-file", str(sbom), "-"]
    _run(["cyclonedx-py", "requirements", *formats], ROOT, stdin=compiled.encode())


def split_lock(compiled: str) -> tuple[str, str]:
    """A lock without torch and its CUDA libraries, and one with these alone."""
    entries = re.split(r"(?m)^(?=\S)", compiled)
    torch = [entry for entry in entries if TORCH.match(entry)]
    return "".join(entry for entry in entries if entry not in torch), "".join(torch)


def digests(folder: Path) -> str:
    """SHA-256 of each file, as `sha256sum --check` reads it."""
    return "".join(f"{_sha256(path.read_bytes())}  {path.name}\n" for path in sorted(folder.iterdir()))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _run(
    command: list[str], folder: Path, environment: Mapping[str, str] | None = None, stdin: bytes | None = None
) -> bytes:
    """What a program prints; its tools are those beside this Python, its files as everybody's umask would have them.

    Raises:
        ReleaseError: it fails.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = os.environ | {"PATH": path} | dict(environment or {})
    try:
        done = subprocess.run(  # noqa: S603
            command, cwd=folder, env=variables, input=stdin, capture_output=True, check=True, umask=0o022
        )
    except FileNotFoundError:
        raise ReleaseError(f"{command[0]} is not installed. Run `make release`, which installs it") from None
    except subprocess.CalledProcessError as error:
        raise ReleaseError(f"{' '.join(command[:3])} fails:\n{error.stderr.decode(errors='replace')}") from error
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
