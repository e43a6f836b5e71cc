"""Limits what a site does for its server to starting and ending a job.

FLARE 2.9's client serves more: `cat`, `grep` and `ls` of everything its user can read, statistics, errors, log
settings, shut-down. It checks the site's rules (`local/authorization.json`) only if a header of the request says so,
and the server sets that header: a compromised server leaves it out, and reads records and keys. So whatever no study
needs is removed from the site's processes before they listen. A job's process serves its site's client in the same way,
and the server can reach it as well.
"""

from __future__ import annotations

from nvflare.apis.fl_constant import AdminCommandNames
from nvflare.private.defs import TrainingTopic
from nvflare.private.fed.client.admin_commands import AdminCommands
from nvflare.private.fed.client.client_req_processors import ClientRequestProcessors

OF_A_SITE = frozenset(
    {
        TrainingTopic.CHECK_RESOURCE,
        TrainingTopic.CANCEL_RESOURCE,
        TrainingTopic.DEPLOY,
        TrainingTopic.START_JOB,
        TrainingTopic.NOTIFY_JOB_STATUS,
        TrainingTopic.ABORT,
    }
)
"""Request topics."""
OF_A_JOB = frozenset({AdminCommandNames.CHECK_STATUS, AdminCommandNames.ABORT})
"""Commands to a job's process."""


def serve_jobs_only() -> None:
    """Permanently remove everything else from this process. Call this before FLARE registers what it serves."""
    processors, commands = ClientRequestProcessors.request_processors, AdminCommands.commands
    processors[:] = [each for each in processors if OF_A_SITE.issuperset(each.get_topics())]
    commands[:] = [each for each in commands if each.get_command_name() in OF_A_JOB]
