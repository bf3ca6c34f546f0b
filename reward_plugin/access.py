"""Who may talk to a reward server and who is trusted to be one: secrets, addresses, certificates."""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from pathlib import Path

from reward_plugin.errors import ConfigError

TOKEN_VARIABLE = "REWARD_TOKEN"


def read_token(file: Path | str | None) -> str | None:
    """The bearer token: from a file, or from the environment, or none.

    Raises:
        ConfigError: the file is not there, or there is no token in it, or one that no header can carry.
    """
    if file is None:
        source, token = TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE, "").strip()
        if not token:
            return None
    else:
        source = f"token_file {file}"
        try:
            token = Path(file).read_text(encoding="utf-8", errors="replace").strip()
        except OSError as error:
            raise ConfigError(f"{source}: {error.strerror}; write the shared secret into it") from None
    if not token:
        raise ConfigError(f"{source}: empty; write the shared secret into it")
    if not re.fullmatch("[!-~]+", token):
        raise ConfigError(
            f"{source}: a token is one word of ASCII characters; openssl rand -hex 32 makes one"
        )
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def trust(ca_file: Path | str | None) -> ssl.SSLContext:
    """TLS with the certificates to trust a server by: those of a file, and none else, or those that this
    machine trusts (SSL_CERT_FILE names others) together with the usual authorities.

    Raises:
        ConfigError: the file is not there or holds no certificates.
    """
    if ca_file is None:
        import certifi

        context = ssl.create_default_context()
        context.load_verify_locations(certifi.where())
        return context
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        raise ConfigError(f"ca_file {ca_file}: holds no certificates in PEM form") from None
    except OSError as error:
        raise ConfigError(f"ca_file {ca_file}: {error.strerror}; name a file of PEM certificates") from None
