"""What one request, and all of them together, may ask of a server."""

from __future__ import annotations

from dataclasses import dataclass

from reward_plugin.errors import ConfigError
from reward_plugin.images import MAX_PIXELS
from reward_plugin.queueing import Full

#: Bytes of a request as JSON, which is parsed in one piece and takes far more time and memory than multipart.
MAX_JSON = 16 << 20


@dataclass(frozen=True)
class Limits:
    """What one request, and all waiting ones together, may ask for.

    Attributes:
        max_items: Pictures in one request.
        max_bytes: Bytes of one request body.
        max_pixels: Width times height of one picture.
        max_waiting: Requests that wait while one is scored; the next one gets 503.
        max_memory: Bytes of all request bodies that are being read, wait or are scored; 503 past them.
        read_timeout: Seconds in which a request must have arrived; 408 past them.
    """

    max_items: int = 256
    max_bytes: int = 256 * 1024 * 1024
    max_pixels: int = MAX_PIXELS
    max_waiting: int = 32
    max_memory: int = 1024 * 1024 * 1024
    read_timeout: float = 60.0

    def __post_init__(self) -> None:
        for name in ("max_items", "max_bytes", "max_pixels", "read_timeout"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} {getattr(self, name)}: it must be greater than 0")
        if self.max_waiting < 0:
            raise ConfigError(f"max_waiting {self.max_waiting}: it must be at least 0")
        if self.max_memory < self.max_bytes:
            raise ConfigError(
                f"max_memory {self.max_memory}: less than one request of max_bytes {self.max_bytes}; "
                "raise it, or lower max_bytes"
            )


class Budget:
    """Bytes that request bodies take, of those that they may take together; for the event loop alone."""

    def __init__(self, total: int) -> None:
        self.total, self.used = total, 0

    def take(self, size: int) -> None:
        """Count `size` bytes in; `Full` where there is no room for them."""
        if self.used + size > self.total:
            raise Full(2)
        self.used += size

    def give(self, size: int) -> None:
        """Count `size` bytes out."""
        self.used -= size
