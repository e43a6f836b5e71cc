"""Checks the names for a federation's certificates before anything is made. No nvflare."""

from __future__ import annotations

import re
from collections.abc import Sequence

from secfed.errors import UserError

HOST_MAX = 64
"""Longest name in a certificate, in characters (RFC 5280, ub-common-name)."""
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_TAKEN = ("server", "operator", "certificates")
"""Names already taken beside the sites' kits."""


def check_names(host: str, sites: Sequence[str]) -> None:
    """Refuse names that do not fit into a certificate, or whose kits would collide in one folder.

    Args:
        host: the server, as the sites dial it.
        sites: the names of the roster.

    Raises:
        UserError: a name does not fit; says which name to choose.
    """
    if ":" in host:
        raise UserError(
            f"{host} is an IPv6 address, and FLARE cannot make kits for one",
            "Pass --server a name that resolves to it at every site (DNS or /etc/hosts), or an IPv4 address",
        )
    if not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise UserError(
            f"{host} is not a valid server name",
            "Use letters, digits, hyphens and single dots, as in aggregator.example",
        )
    if len(host) > HOST_MAX:
        raise UserError(
            f"the server's name has {len(host)} characters, but a certificate allows at most {HOST_MAX}: {host}",
            "Pass --server a shorter name",
        )
    for name in sites:
        if name == host or name in _TAKEN:
            raise UserError(
                f"the roster has a site called {name}, but that name is already taken beside its kit",
                "Rename this site in the study and have it signed again, or use the server's full name",
            )
