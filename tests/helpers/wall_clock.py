"""The wall clock of one process, set by libfaketime."""

from __future__ import annotations

from pathlib import Path

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


class WallClock:
    """The wall clock of one process, as libfaketime shows it; the clocks that nobody can set stay as they are."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "faketime"
        self.off = 0.0
        self.step(0)
        self.environment = {
            "LD_PRELOAD": str(LIBRARIES[-1]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            # Read at most once a second: to read the file at each of a process's questions takes most of its time.
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def step(self, seconds: float) -> None:
        """Set it by so many seconds more, from one moment to the next, which comes within two seconds."""
        self.off += seconds
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{self.off:+g}\n")
        fresh.rename(self._file)
