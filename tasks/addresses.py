"""Addresses as they may be shown: a tracker's may hold a password."""

from __future__ import annotations

import re

# A password may hold '/', '?' or '@' (SQLAlchemy's do): all before the last '@' is the login.
_LOGIN = re.compile(r"(?<=://)[^/:\s]*(:\S*)?@")
_QUERY = re.compile(r"(://[^\s?]*)\?[^\s'\")]*")


def without_password(text: str) -> str:
    """A text with the addresses in it cut to what is no secret: without login and query."""
    return _QUERY.sub(r"\1", _LOGIN.sub("", text))
