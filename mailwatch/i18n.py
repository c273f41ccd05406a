"""How long something lasted, as text for people. Reports have a way of their own, by language."""

from __future__ import annotations

import math


def format_duration(seconds: float, round_up: bool = False, language: str = "en") -> str:
    """Write a duration: 12 ms, 3.4 s, 5 min 3 s, 2 h 5 min, 3 d 4 h 7 min; in Italian 3,4 s and 3 g 4 h 7 min.

    What lasted at least so long is cut down and what lasted at most is rounded up, so that neither says too much.
    """
    text = _format_duration(seconds, round_up)
    return text.replace(" d", " g").replace(".", ",") if language == "it" else text


def _format_duration(seconds: float, round_up: bool) -> str:
    if seconds == 0:
        return "0 s"
    if seconds < 1:
        millis = math.ceil(seconds * 1000) if round_up else math.floor(seconds * 1000)
        return f"{millis} ms" if millis else "<1 ms"
    millis = round(seconds * 1000)
    for below, step in ((60_000, 100), (3_600_000, 1000), (math.inf, 60_000)):
        if millis < below:
            millis = -(-millis // step) * step if round_up else millis // step * step
            break
    if millis < 60_000:
        return f"{millis / 1000:.1f} s"
    whole = millis // 1000
    units = ((whole // 86_400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s"))
    return " ".join(f"{count} {unit}" for count, unit in units if count)
