"""The names that stand in a federation's certificates, checked before anything is made. No nvflare imported."""

from __future__ import annotations

import re
from collections.abc import Sequence

from secfed.errors import UserError

HOST_MAX = 64
"""Characters of a name in a certificate (RFC 5280, ub-common-name)."""
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_TAKEN = ("server", "operator", "certificates")
"""What else lies beside the sites' kits, by these names."""


def check_names(host: str, sites: Sequence[str]) -> None:
    """Refuse names that no certificates, or no kits beside one another, can be made for.

    Args:
        host: the server, as the sites dial it.
        sites: the names of the roster.

    Raises:
        UserError: with what to call it.
    """
    if ":" in host:
        raise UserError(
            f"{host} is an IPv6 address, and FLARE makes no kits for one",
            "Give --server a name that stands for it in DNS or in /etc/hosts at every site, or an IPv4 address",
        )
    if not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise UserError(
            f"{host} is no name of a server", "Use letters, digits, hyphens and single dots, as in aggregator.example"
        )
    if len(host) > HOST_MAX:
        raise UserError(
            f"the server's name has {len(host)} characters, and a certificate takes {HOST_MAX}: {host}",
            "Give --server a shorter name for it",
        )
    for name in sites:
        if name == host or name in _TAKEN:
            raise UserError(
                f"the roster has a site called {name}, and so is what lies beside its kit",
                "Have a study signed that calls this site something else, or call the server by its full name",
            )
