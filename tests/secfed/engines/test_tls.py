"""Addresses of servers, as they are given on the command line."""

from __future__ import annotations

import pytest

from secfed.engines.flare.tls import parse_address
from secfed.errors import UserError


@pytest.mark.parametrize("text", ["host", "host:", ":80", "host:0", "host:65536", "host:x", "host:\u0664"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="not a server address"):
        parse_address(text)
