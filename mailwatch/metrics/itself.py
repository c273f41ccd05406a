"""What /metrics knows of MailWatch itself: what its self-watch found last."""

from __future__ import annotations

from dataclasses import dataclass, field

from mailwatch.metrics.record import Histogram
from mailwatch.models import Sign

LAG_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
Amount = tuple[int | None, int | None]
"""What is used, and the limit; None where it is not known or not set."""
NOTHING: Amount = (None, None)


@dataclass(slots=True)
class Itself:
    """Written once a second in the event loop; read from any thread."""

    lag: Histogram = field(default_factory=lambda: Histogram(LAG_BUCKETS))
    stalled: int = 0
    overdue: int = 0
    store_wait: float = 0.0
    files: Amount = NOTHING
    threads: Amount = NOTHING
    memory: dict[str, Amount] = field(default_factory=dict)
    problems: dict[str, bool] = field(default_factory=lambda: {sign.value: False for sign in Sign})
