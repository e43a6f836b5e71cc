"""Names shared by provisioning, jobs and both sides of a job. No nvflare."""

from __future__ import annotations

import re

from secfed.rounds.run_facts import FLARE

ENGINE = f"{FLARE} (a process and a key at every site, mutual TLS)"
_PACKAGE = "secfed.engines.flare"
CONTROLLER = f"{_PACKAGE}.controller.StudyController"
EXECUTOR = f"{_PACKAGE}.executor.NodeExecutor"
CLIENT_LAUNCHER = f"{_PACKAGE}.launcher.NodeLauncher"
CLIENT_DEPLOYER = f"{_PACKAGE}.deployer.NodeDeployer"
KEEPER = f"{_PACKAGE}.keeper.StudyKeeper"
_JOB_PREFIX = "secfed-"
_DIGEST = re.compile(r"[0-9a-f]{64}")


def study_digest(text: object) -> bytes:
    """The digest that a job names. Raises ValueError for anything but 64 hexadecimal digits."""
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise ValueError("a job names a study by the 64 hexadecimal digits of its digest")
    return bytes.fromhex(text)


def job_name(study: bytes) -> str:
    """The name of a study's job."""
    return f"{_JOB_PREFIX}{study.hex()}"


def study_of_job(name: str) -> bytes | None:
    """The digest in a job's name; None if the job is not ours."""
    digits = name.removeprefix(_JOB_PREFIX)
    return bytes.fromhex(digits) if name.startswith(_JOB_PREFIX) and _DIGEST.fullmatch(digits) else None
