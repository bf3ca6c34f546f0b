"""Who may talk to a reward server and who is trusted to be one: secrets, addresses, certificates."""

from __future__ import annotations

import ipaddress
import os
import ssl
from pathlib import Path

from reward_plugin.errors import ConfigError

TOKEN_VARIABLE = "REWARD_TOKEN"


def read_token(file: Path | str | None) -> str | None:
    """The bearer token: from a file, or from the environment, or none.

    Raises:
        ConfigError: the file is not there or empty.
    """
    if file is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    try:
        token = Path(file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"token_file {file}: {error.strerror}; write the shared secret into it") from None
    if not token:
        raise ConfigError(f"token_file {file}: empty; write the shared secret into it")
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def trust(ca_file: Path | str) -> ssl.SSLContext:
    """TLS with the certificates of a file, and none else, to trust a server by.

    Raises:
        ConfigError: the file is not there or holds no certificates.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        raise ConfigError(f"ca_file {ca_file}: holds no certificates in PEM form") from None
    except OSError as error:
        raise ConfigError(f"ca_file {ca_file}: {error.strerror}; name a file of PEM certificates") from None
