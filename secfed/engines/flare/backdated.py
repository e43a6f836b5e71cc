"""FLARE's provisioning, with certificates that begin two days before they are made.

FLARE's certificates begin at the moment of signing, by the organiser's clock: a site whose clock is a day behind could
not connect for a day. Backdating loses nothing: what a certificate states was also true two days ago. Run as a program,
this module is `nvflare`: `python -m secfed.engines.flare.backdated cert init ...`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from nvflare.lighter import utils
from nvflare.lighter.impl import cert

from secfed.engines.flare.kit_check import BACKDATED

_original = utils.generate_cert


def backdate() -> None:
    """Make FLARE issue backdated certificates in this process. Call before `nvflare.tool.cert` is loaded."""
    utils.generate_cert = cert.generate_cert = _generate_cert


def _generate_cert(
    *arguments: Any,
    valid_days: int = cert.DEFAULT_CERT_VALID_DAYS,
    not_valid_before: datetime | None = None,
    not_valid_after: datetime | None = None,
    **options: Any,
) -> Any:
    """FLARE's `generate_cert` with a backdated start. The end stays the same."""
    starts = not_valid_before or datetime.now(UTC)
    ends = not_valid_after or starts + timedelta(days=valid_days)
    return _original(*arguments, not_valid_before=starts - BACKDATED, not_valid_after=ends, **options)


if __name__ == "__main__":
    backdate()
    from nvflare.cli import main

    main()
