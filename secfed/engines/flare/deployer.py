"""Tells a site's owner of every job that the site does not take, and why. FLARE tells its server alone."""

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
"""Characters of a reason, in which words of the server's may be repeated."""


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
        """As FLARE's. Gives the reason for which the job is not taken; empty where it is."""
        forget_old_jobs(Path(workspace.get_root_dir()))
        reason = check_archive(app_data)
        if not reason:
            reason = str(super().deploy(workspace, job_id, job_meta, app_name, app_data, fl_ctx) or "")
        if reason:
            OwnersLog(default_home())(
                f"a job of the server was not taken: {reason[:_REASON_MAX]}. Nothing of it was run; ask its operator"
            )
        return reason
