"""Who may talk to a server: tokens and addresses."""

from pathlib import Path

import pytest

from reward_plugin.access import TOKEN_VARIABLE, is_loopback, read_token
from reward_plugin.errors import ConfigError


def test_a_token_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert read_token(None) is None
    monkeypatch.setenv(TOKEN_VARIABLE, " \n")
    assert read_token(None) is None
    monkeypatch.setenv(TOKEN_VARIABLE, "from-the-environment\n")
    assert read_token(None) == "from-the-environment"
    (tmp_path / "token").write_text(" from-the-file\n")
    assert read_token(tmp_path / "token") == "from-the-file"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("two words", "one word of ASCII"),
        ("two\nlines", "one word of ASCII"),
        ("gr\xfc\xdfe", "one word of ASCII"),
    ],
)
def test_a_token_that_no_header_can_carry(tmp_path: Path, text: str, reason: str):
    (tmp_path / "token").write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=reason):
        read_token(tmp_path / "token")


def test_which_addresses_only_this_machine_can_reach():
    for host in ("127.0.0.1", "127.3.2.1", "::1", "localhost"):
        assert is_loopback(host)
    for host in ("0.0.0.0", "::", "", "10.0.0.1", "192.168.1.1", "example.org", "localhost.example.org"):
        assert not is_loopback(host)
