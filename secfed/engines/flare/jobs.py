"""Jobs that the server's operator submits, follows and aborts: configuration that names only installed classes."""

from __future__ import annotations

import io
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvflare.fuel.flare_api.api_spec import (
    AuthenticationError,
    AuthorizationError,
    InternalError,
    InvalidJobDefinition,
    JobNotFound,
    JobNotRunning,
    NoConnection,
)
from nvflare.fuel.flare_api.flare_api import Session, new_secure_session

from secfed.engines.flare.kit_check import Kit, check_start
from secfed.engines.flare.kits import OPERATOR
from secfed.engines.flare.settings import CONTROLLER, EXECUTOR, job_name, study_of_job
from secfed.engines.flare.tls import Server, greet
from secfed.errors import UserError
from secfed.files.whole import json_text
from secfed.study.manifest import Study

_APP = "study"
_CONNECT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Job:
    """A job at the server."""

    id: str
    study: str
    """The study's digest, as hexadecimal digits."""
    status: str
    submitted: str

    @property
    def is_over(self) -> bool:
        """Whether the job has ended for good."""
        return self.status.upper().startswith(("FINISHED", "FAILED", "ABANDONED"))


def write_job(folder: Path, study: Study) -> Path:
    """Write a study's job in FLARE's format: three files, whose only content from the study is its digest."""
    config = folder / job_name(study.digest) / _APP / "config"
    config.mkdir(parents=True)
    digest = {"study": study.digest.hex()}
    (config / "config_fed_server.json").write_text(
        json_text({"format_version": 2, "workflows": [{"id": "study", "path": CONTROLLER, "args": digest}]})
    )
    (config / "config_fed_client.json").write_text(
        json_text(
            {"format_version": 2, "executors": [{"tasks": ["*"], "executor": {"path": EXECUTOR, "args": digest}}]}
        )
    )
    job = config.parent.parent
    (job / "meta.json").write_text(
        json_text(
            {
                "name": job.name,
                "resource_spec": {},
                "deploy_map": {_APP: ["server", *(entry.name for entry in study.roster)]},
                "min_clients": study.cohort_rules().fewest_survivors,
            }
        )
    )
    return job


class Operator:
    """A session of the server's operator."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def sites(self) -> list[str]:
        """The sites that the server lists, including for some minutes those that were killed."""
        return sorted(client.name for client in self._session.get_system_info().client_info)

    def last_heard(self) -> dict[str, float]:
        """When the server last heard from each listed site, in seconds since 1970 by the server's clock."""
        return {client.name: float(client.last_connect_time) for client in self._session.get_system_info().client_info}

    def sites_of(self, job: str) -> tuple[str, ...]:
        """The sites that a job is for, by name."""
        deployed = self.meta(job).get("deploy_map", {})
        return tuple(sorted({site for sites in deployed.values() for site in sites} - {"server"}))

    def jobs(self) -> list[Job]:
        """Every job of a study, the newest first."""
        found = [_job(meta) for meta in self._session.list_jobs(detailed=True)]
        return sorted((job for job in found if job is not None), key=lambda job: job.submitted, reverse=True)

    def submit(self, study: Study) -> str:
        """Submit a study's job. Returns the job's id.

        Raises:
            UserError: a job of this study has not ended, or the server refuses.
        """
        running = [job for job in self.jobs() if job.study == study.digest.hex() and not job.is_over]
        if running:
            raise UserError(
                f"the server already has study {study.name}, as job {running[0].id}",
                "A restarted server continues it on its own. Follow it with `secfed federation status`, or end it "
                "with `secfed federation abort`",
            )
        folder = Path(tempfile.mkdtemp(prefix="secfed-job-"))
        try:
            return str(self._session.submit_job(str(write_job(folder, study))))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def submit_folder(self, job: Path) -> str:
        """Submit any job folder; the server decides whether to accept it."""
        return str(self._session.submit_job(str(job)))

    def meta(self, job: str) -> dict[str, Any]:
        """All that the server reports about a job."""
        return dict(self._session.get_job_meta(job))

    def abort(self, study: bytes) -> list[str]:
        """Abort a study's running jobs. Returns their ids."""
        ended = [job.id for job in self.jobs() if job.study == study.hex() and not job.is_over]
        for job in ended:
            self._session.abort_job(job)
        return ended


@contextmanager
def connect(kit: Path) -> Iterator[Operator]:
    """A session with the server, from the operator's kit.

    Raises:
        UserError: the kit is invalid, or the server does not answer or refuses; also raised from inside the session.
    """
    checked, warnings = check_start(kit, "operator")
    for line in warnings:
        sys.stderr.write(f"secfed: {line}\n")
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # hides FLARE's messages about its connections; its exceptions say what matters
    session = None
    try:
        session = _log_in(checked)
        yield Operator(session)
    except InvalidJobDefinition as error:
        raise UserError(
            f"the server refuses the job: {error}", "Submit a study with `secfed federation submit`"
        ) from error
    except (AuthenticationError, AuthorizationError) as error:
        raise UserError(
            f"the server does not allow its operator to do that ({error})", "Use the operator's kit"
        ) from error
    except (NoConnection, JobNotFound, JobNotRunning, InternalError) as error:
        raise UserError(f"the server says: {error}", "Run `secfed federation status`") from error
    finally:
        if session is not None:
            session.close()
        logging.disable(level)


def _log_in(kit: Kit) -> Session:
    try:
        with redirect_stdout(io.StringIO()):  # it also prints
            return new_secure_session(OPERATOR, str(kit.path), timeout=_CONNECT_SECONDS, auto_login_max_tries=1)
    except (AuthenticationError, AuthorizationError) as error:
        raise UserError(
            f"the server does not accept this operator ({error})", "Use the kit of this server's operator"
        ) from error
    except Exception as error:  # FLARE passes on any exception of its transport and cryptography
        greet(Server(kit.host, kit.port, kit.root, kit.certificate, kit.key))  # says what is wrong, if it is TLS
        if isinstance(error, NoConnection):
            raise UserError(
                "the server does not answer", "Check that the server runs, its host and port, and the firewall"
            ) from None
        raise UserError(
            f"no session with the server could be set up ({type(error).__name__}: {error})",
            "Check that the kit belongs to this server's operator, is complete, and has not expired",
        ) from None


def _job(meta: dict[str, Any]) -> Job | None:
    digest = study_of_job(str(meta.get("name", meta.get("job_name", ""))))
    if digest is None:
        return None
    return Job(str(meta["job_id"]), digest.hex(), str(meta.get("status", "")), str(meta.get("submit_time", "")))
