"""Tells a site's owner about every job that the site refuses, and why. FLARE tells only the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nvflare.apis.fl_context import FLContext
from nvflare.apis.workspace import Workspace
from nvflare.private.fed.utils.app_deployer import AppDeployer

from secfed.engines.flare.room import check_archive, forget_old_jobs
from secfed.node.home import default_home
from secfed.node.owners_log import OwnersLog

_REASON_MAX = 300
"""The most characters of a reason, which may repeat the server's words."""


class NodeDeployer(AppDeployer):  # type: ignore[misc]
    """Puts a job's configuration into the site's kit, if the site's rules allow it."""

    def deploy(
        self,
        workspace: Workspace,
        job_id: str,
        job_meta: dict[str, Any],
        app_name: str,
        app_data: bytes,
        fl_ctx: FLContext,
    ) -> str:
        """Like FLARE's. Returns why the job is refused; empty if it is accepted."""
        forget_old_jobs(Path(workspace.get_root_dir()))
        reason = check_archive(app_data)
        if not reason:
            reason = str(super().deploy(workspace, job_id, job_meta, app_name, app_data, fl_ctx) or "")
        if reason:
            OwnersLog(default_home())(
                f"a job from the server was refused: {reason[:_REASON_MAX]}. Nothing of it was run; ask the "
                "server's operator"
            )
        return reason
