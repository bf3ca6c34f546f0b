"""The addresses of reward servers, as they are written into configurations."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from reward_plugin.access import is_loopback
from reward_plugin.errors import ConfigError


def check_url(url: str) -> str:
    """The address without a slash at its end; there may be a path, as behind some proxies.

    Raises:
        ConfigError: it is none, or says more than where the server is. A secret in it is not repeated.
    """
    parts = _split(url)
    if "@" in parts.netloc:
        raise ConfigError(
            f"url of the host {parts.hostname!r}: a name or password in it would end up in logs; write the "
            "server's token into a file and name it as token_file, or set REWARD_TOKEN"
        )
    try:
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # what should be a port is none
        known = False
    if not known or parts.query or parts.fragment or not url.isascii() or any(map(str.isspace, url)):
        raise ConfigError(f"url {url!r}: write it as http://host:port")
    return url.rstrip("/")


def is_local(url: str) -> bool:
    """Whether the address is one of this machine's own."""
    return is_loopback(_split(url).hostname or "")


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"url {url!r}: {error}; write it as http://host:port") from None
