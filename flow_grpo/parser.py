"""A jsonargparse parser that refuses what jsonargparse 4 passes over in silence.

It merges what was read into the defaults leaf by leaf. A mapping without leaves, `foo: {}`, has none to
merge, so it is gone before keys are checked; and a section that is null, as when all of its keys are
commented out, takes the place of the whole section.
"""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

#: Keys that had another name.
RENAMED = {"max_wait": "reward.max_outage"}


class Parser(ArgumentParser):
    """An ArgumentParser for dataclasses in which an unknown key is an error, whatever its value."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with code 2 and the message, which says so if an unknown key only has another name now."""
        for old, new in RENAMED.items():
            if old in message:
                message = f"{message}\n{old} is called {new} now; rename the key."
        super().error(message, ex)

    # Every mapping comes through here, whether it stands in a file, on the command line or in a list.
    def _apply_actions(self, cfg: Any, parent_key: str = "", *args: Any, **kwargs: Any) -> Namespace:
        read: Namespace = super()._apply_actions(cfg, parent_key, *args, **kwargs)
        sections = self._sections()
        for key in read.keys(branches=True):
            name, value = f"{parent_key}.{key}" if parent_key else key, read[key]
            if isinstance(value, Namespace) and not vars(value) and name not in sections:
                raise TypeError(f"Option {name!r} is not accepted")
            if value is None and name in sections:
                raise TypeError(f"{name} is null, but it holds keys; give some of them, or leave out {name}")
        return read

    def _sections(self) -> set[str]:
        """Names of the nested dataclasses that are always there: they have keys and no value of their own."""
        own = {action.dest for action in self._actions if action.default == argparse.SUPPRESS}
        return {name for name in own if any(a.dest.startswith(f"{name}.") for a in self._actions)}
