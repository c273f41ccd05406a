"""Vectors with timestamp tokens, whose signatures cannot be made anew.

`python -m tests.helpers.vector_tokens` made the bundles in tests/testdata/stamped once.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mailwatch.store import Store
from mailwatch.times import Millis
from tests.helpers.bundle_files import Files, files_of
from tests.helpers.bundle_mutations import manifested, private_key
from tests.helpers.malicious_operator import Operator, quiet
from tests.helpers.paths import TESTDATA
from tests.helpers.vector_cases import Change, Json, Vector, in_json, put, zip_of
from tests.servers.authority import Authority

FOLDER = TESTDATA / "stamped"
OFF: Millis = 20 * 60_000


def _off(operator: Operator, authority: Authority) -> None:
    """The clock is twenty minutes ahead, and on record."""
    operator.clock_error = OFF
    operator.observe("+")
    operator.stamp(authority)
    operator.observe("+---++")
    operator.stamp(authority)


def _lying(off: Millis) -> Callable[[Operator, Authority], None]:
    """The clock is off, and the entries about tokens say that it is not."""

    def write(operator: Operator, authority: Authority) -> None:
        operator.clock_error = off
        operator.observe("+")
        for marks in ("+---++", "+"):
            at = operator.clock() - off
            operator.stamp(authority, asked=at, answered=at, offset_ms=0)
            operator.observe(marks)

    return write


def _fast(operator: Operator, authority: Authority) -> None:
    """Both clocks run ahead between two tokens, and the record says what the wall clock showed."""
    operator.observe("+")
    operator.stamp(authority)
    operator.observe("+--")
    operator.wait(10 * 60_000)
    operator.observe("-++")
    operator.stamp(authority)


def _slow(operator: Operator, authority: Authority) -> None:
    """The steady clock stands still for four seconds between two tokens."""
    for number, marks in enumerate(("+", "+--", "-", "-++")):
        if number == 2:
            time.sleep(4)
            operator.run_ahead -= 4000
        operator.observe(marks)
        operator.stamp(authority)


WRITTEN: dict[str, tuple[Callable[[Operator, Authority], None], str, str]] = {
    "clock-off": (_off, "", "the clock was twenty minutes ahead by the tokens, which is stated"),
    "bad-times-late": (_lying(OFF), "times", "entries under a token's checkpoint are dated twenty minutes later"),
    "bad-times-early": (_lying(-OFF), "times", "entries behind the entry of a token are dated earlier than it"),
    "bad-times-fast": (_fast, "times", "between two tokens the clock ran ten minutes ahead of the authority's"),
    "bad-times-slow": (_slow, "times", "between two tokens the clock stood still for four seconds"),
}
"""How each is written, the claim that must fail, and why."""


def _unstated(stated: Json) -> None:
    del stated["clock_error"]


CHANGED: dict[str, tuple[Change, str, str]] = {
    "clock-error": (in_json("outage.json", _unstated), "outage", "that the clock was off is not stated"),
    "authorities": (
        in_json("outage.json", put("authorities/0/signer", "Another authority")),
        "outage",
        "another authority is stated than the one that signed",
    ),
    "outside-times-after": (
        in_json("outage.json", put("outside_times/not_after", None)),
        "outage",
        "the time after the outage is left out",
    ),
}
"""Changes of `clock-off`, with the key."""


def token_vectors() -> Iterator[Vector]:
    """Make the vectors of this module."""
    for name, (_, fails, why) in WRITTEN.items():
        files, key = _kept(name)
        yield Vector(f"{name}.zip", zip_of(manifested(files, key)), fails, why)
    files, key = _kept("clock-off")
    for name, (edit, fails, why) in CHANGED.items():
        yield Vector(f"bad-{name}.zip", zip_of(manifested(edit(files, key), key)), fails, why, "clock-off.zip")


def _kept(name: str) -> tuple[Files, Ed25519PrivateKey]:
    files = files_of(FOLDER / f"{name}.zip")
    kept = {one: content for one, content in files.items() if not one.startswith("VERIF") and one != "verify.py"}
    return kept, private_key(FOLDER / f"{name}.pem")


def main() -> None:
    """Make the bundles anew, with their keys."""
    FOLDER.mkdir(exist_ok=True)
    for name, (write, _, _) in WRITTEN.items():
        with tempfile.TemporaryDirectory() as folder:
            data, authority = Path(folder) / "data", quiet(Path(folder) / "authority")
            store = Store.open(data)
            operator = Operator(store, data)
            write(operator, authority)
            shutil.copy(operator.bundle(authority), FOLDER / f"{name}.zip")
            shutil.copy(data / "keys" / "ledger.pem", FOLDER / f"{name}.pem")
            store.close()


if __name__ == "__main__":
    main()
