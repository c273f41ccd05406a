"""python -m tests.fuzz: so many inputs (or so many seconds), from a seed; exit 1 if a reader failed."""

from __future__ import annotations

import argparse
import secrets
import subprocess
import sys
import traceback
from pathlib import Path

from tests.fuzz import campaign


def main() -> int:
    """Fuzz, or replay one input."""
    asked = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    asked.add_argument("--count", type=int, default=200_000, help="inputs in all")
    asked.add_argument("--seconds", type=float, default=3600.0, help="at most so many seconds")
    asked.add_argument("--seed", type=int, default=None, help="without it another one each time")
    asked.add_argument("--target", action="append", default=[], help="only this reader; may be repeated")
    asked.add_argument("--replay", type=Path, help="read one kept input again")
    asked.add_argument("--jobs", type=int, default=1, help="processes, each with its part and a seed of its own")
    given = asked.parse_args()
    if given.jobs > 1 and not given.replay:
        return _at_once(given)
    campaign.bounded()
    if given.replay:
        error = campaign.replay(given.replay)
        if error is not None:
            traceback.print_exception(error)
        print("fails" if error is not None else "holds")
        return 0 if error is None else 1
    seed = secrets.randbelow(1 << 31) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    figures = campaign.run(campaign.targets(given.target), seed, given.count, given.seconds)
    print(campaign.table(figures))
    return 1 if any(each.found for each in figures.values()) else 0


def _at_once(given: argparse.Namespace) -> int:
    seed = secrets.randbelow(1 << 31) if given.seed is None else given.seed
    words = [word for name in given.target for word in ("--target", name)]
    started = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.fuzz",
                "--count",
                str(-(-given.count // given.jobs)),
                "--seed",
                str(seed + number),
                "--seconds",
                str(given.seconds),
                *words,
            ]
        )
        for number in range(given.jobs)
    ]
    return max(process.wait() for process in started)


if __name__ == "__main__":
    raise SystemExit(main())
