"""How long to wait before another attempt."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Exponential waits with jitter.

    Attributes:
        first: seconds after the first failure, on average.
        longest: bound on that average, however many failures there were.
    """

    first: float = 0.25
    longest: float = 15.0

    def delay(self, failures: int, retry_after: float = 0.0) -> float:
        """Seconds to leave a server alone after so many failures in a row, at least `retry_after`.

        Jitter of half to one and a half times keeps workers that failed together from coming back together;
        what the server asks for is only lengthened, by up to a quarter.
        """
        plain = min(self.longest, self.first * 2 ** min(failures - 1, 32))
        return max(plain * random.uniform(0.5, 1.5), retry_after * random.uniform(1.0, 1.25))
