"""The run: so many inputs from one seed, bounded in time and memory; each failure is kept as a file that replays."""

from __future__ import annotations

import hashlib
import importlib
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from tests.fuzz.mutation import mutate
from tests.fuzz.target import Target

CORPUS = Path(__file__).parent / "corpus"
FOUND = Path(__file__).parent / "found"
HANGS = 10.0
"""Seconds of processor time for one input: far above what any needs, so that no busy machine makes a failure."""
MEMORY = 4 << 30
"""Bytes of address space; what wants more fails."""
LARGE = 256 << 20
"""Bytes by which one input may make the process grow."""
AT_A_TIME = 20
MOST_OF_A_KIND = 5
GROUPS = ("mail", "network", "evidence", "owner_input")


class Hangs(BaseException):
    """An input that takes too long; no reader's `except Exception` may swallow it."""


@dataclass(slots=True)
class Figures:
    """What came of one target."""

    inputs: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    found: dict[str, list[Path]] = field(default_factory=dict)
    """By the kind of a failure the inputs that show it."""


def targets(names: Sequence[str] = ()) -> list[Target]:
    """Return all targets, or those of these names."""
    known = [target for room in GROUPS for target in importlib.import_module(f"tests.fuzz.{room}").targets()]
    if unknown := set(names) - {target.name for target in known}:
        raise SystemExit(
            f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(t.name for t in known)}"
        )
    return [target for target in known if not names or target.name in names]


def bounded() -> None:
    """Bound the memory of this process, and have each input bounded in processor time."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGPROF, _hangs)


def _hangs(_number: int, _frame: FrameType | None) -> None:
    raise Hangs(f"one input took more than {HANGS:.0f} s of processor time")


def failure_of(target: Target, data: bytes) -> BaseException | None:
    """Read one input; return what was wrong."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.setitimer(signal.ITIMER_PROF, HANGS)
    try:
        target.run(data)
    except (Exception, Hangs) as error:
        return error
    except BaseException as error:
        if type(error).__name__ == "PanicException":
            return error
        raise
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return MemoryError(f"grew by {grown >> 20} MiB") if grown > LARGE else None


def kind_of(error: BaseException) -> str:
    """Name a failure by where it was raised, so that one fault is reported once."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/mailwatch/" in frame.filename]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "-"
    text = str(error)
    # A fault of our own that was judged: its traceback is among what was logged.
    lines = [line.strip() for line in text.splitlines() if "/mailwatch/" in line]
    what = lines[-1][-80:] if lines else "" if frames else text[:60]
    return f"{type(error).__name__} {where} {what}".strip()


def run(chosen: Sequence[Target], seed: int, count: int, seconds: float) -> dict[str, Figures]:
    """Feed them in turn, until `count` inputs or `seconds` are spent."""
    figures = {target.name: Figures() for target in chosen}
    shares = sum(target.share for target in chosen)
    ends, done, turn = time.monotonic() + seconds, 0, 0
    at = time.monotonic()
    while done < count and time.monotonic() < ends:
        for target in chosen:
            many = max(1, round(AT_A_TIME * len(chosen) * target.share / shares))
            done += _some(
                target, random.Random(f"{seed}/{target.name}/{turn}"), min(many, max(1, count - done)), figures
            )
            if done >= count or time.monotonic() > ends:
                break
        turn += 1
        if time.monotonic() - at > 30:
            at = time.monotonic()
            print(
                f"{done} inputs, {sum(len(each.found) for each in figures.values())} failures",
                file=sys.stderr,
                flush=True,
            )
    return figures


def _some(target: Target, chance: random.Random, many: int, figures: dict[str, Figures]) -> int:
    mine, began = figures[target.name], time.process_time()
    for _ in range(many):
        data, before = mutate(target, chance), time.process_time()
        error = failure_of(target, data)
        mine.slowest = max(mine.slowest, time.process_time() - before)
        if error is not None:
            _keep(target, data, error, mine)
    mine.inputs += many
    mine.seconds += time.process_time() - began
    return many


def _keep(target: Target, data: bytes, error: BaseException, mine: Figures) -> None:
    kept = mine.found.setdefault(kind_of(error), [])
    if len(kept) >= MOST_OF_A_KIND:
        return
    path = FOUND / target.name / hashlib.sha256(data).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    if not kept:
        print(
            f"\n{target.name}: {kind_of(error)}\n  python -m tests.fuzz --replay {path}",
            file=sys.stderr,
            flush=True,
        )
        traceback.print_exception(error, limit=-6)
    kept.append(path)


def replay(path: Path) -> BaseException | None:
    """Read a kept input again; its folder names the target."""
    (target,) = targets([path.parent.name])
    return failure_of(target, path.read_bytes())


def table(figures: dict[str, Figures]) -> str:
    """Write what came of it, one line a target."""
    lines = [f"{'reader':18}{'inputs':>10}{'CPU s':>9}{'µs each':>9}{'slowest ms':>12}{'failures':>10}"]
    for name, each in figures.items():
        mean = 1e6 * each.seconds / max(1, each.inputs)
        lines.append(
            f"{name:18}{each.inputs:>10}{each.seconds:>9.1f}{mean:>9.0f}{1000 * each.slowest:>12.1f}{len(each.found):>10}"
        )
    inputs = sum(each.inputs for each in figures.values())
    spent = sum(each.seconds for each in figures.values())
    lines.append(f"{'in all':18}{inputs:>10}{spent:>9.1f}{'':21}{sum(len(e.found) for e in figures.values()):>10}")
    return "\n".join(lines)
