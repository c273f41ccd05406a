"""What is fuzzed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


class Wrong(AssertionError):
    """What a reader made of an input is not right."""


@dataclass(frozen=True, slots=True)
class Target:
    """One reader. `run` reads an input, and raises when something is wrong with what came of it.

    Of a thousand inputs `share` are for it; `words` are put into inputs beside what the seeds hold. `make` makes an
    input where changed bytes alone would be refused at the first glance.
    """

    name: str
    run: Callable[[bytes], object]
    seeds: Sequence[bytes]
    share: int = 20
    words: Sequence[bytes] = ()
    longest: int = 4096
    make: Callable[[random.Random], bytes] | None = field(default=None)
