"""How far a long computation is: the rate, and the time that remains."""

import sys
import time
from collections.abc import Callable
from typing import NamedTuple, TypeAlias


class Progress(NamedTuple):
    """How many pairs of examples are done, of how many, and in which time.

    Some of them may have been found in a store, as `kept`.
    """

    done: int
    total: int
    seconds: float
    kept: int = 0

    @property
    def rate(self) -> float:
        """Pairs a second."""
        return (self.done - self.kept) / max(self.seconds, 1e-9)

    @property
    def remaining(self) -> float:
        """Seconds until all are done, at this rate."""
        return (self.total - self.done) / max(self.rate, 1e-9)

    def __str__(self) -> str:
        """One line for people to read."""
        share = self.done / max(self.total, 1)
        return (
            f"{share:4.0%} of {self.total:.3g} pairs, {self.rate:.3g} a second, "
            f"{_span(self.remaining)} left"
        )


Report: TypeAlias = Callable[[Progress], object]


def _span(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


# Shorter runs have nothing said about them, and longer ones so often.
_SECONDS_BEFORE, _SECONDS_BETWEEN = 2.0, 0.5


class Line:
    """A line on the standard error stream that is written over and over."""

    def __init__(self) -> None:
        """Say nothing yet."""
        self.said = 0.0

    def __call__(self, progress: Progress) -> None:
        """Say how far it is, on long runs, now and then, and at their end."""
        over = progress.done == progress.total
        late = progress.seconds > max(_SECONDS_BEFORE, self.said + _SECONDS_BETWEEN)
        if late or (over and self.said):
            self.said = progress.seconds
            print(
                f"\r{progress}", end="\n" if over else "", file=sys.stderr, flush=True
            )


class Clock:
    """Progress by the share of the work that is done."""

    def __init__(self, total: int, report: Report):
        """Start now."""
        self.total, self.report, self.start = total, report, time.perf_counter()

    def tell(self, share: float) -> None:
        """Report a share."""
        seconds = time.perf_counter() - self.start
        self.report(Progress(round(share * self.total), self.total, seconds))
