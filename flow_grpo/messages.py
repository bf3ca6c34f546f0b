"""Warnings, above the progress bar: without this they would end up inside it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _AboveBar(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        try:
            tqdm.write(self.format(record), file=sys.stderr)  # takes the bar away and draws it again below
        except Exception:
            self.handleError(record)


@contextmanager
def shown_above_bar(process: int, processes: int) -> Iterator[None]:
    """While this lasts, what the trainer and the reward client warn of is a line of its own on stderr.

    Args:
        process: This process; where there are several the line names it, because a server may be out of
            reach of one of them alone.
        processes: How many there are.
    """
    loggers = [logging.getLogger(package) for package in ("flow_grpo", "reward_plugin")]
    handler = _AboveBar(logging.WARNING)
    # The first process has the bar and takes it away. Another one has to leave its line by itself.
    name = f"process {process}: " if processes > 1 else ""
    handler.setFormatter(logging.Formatter("\n" * (process > 0) + name + "%(message)s"))
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
