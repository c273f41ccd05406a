"""Inputs that once were failures, and a few thousand of one seed; `make fuzz` tries many more."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import pytest

from tests.fuzz.campaign import CORPUS, failure_of, kind_of, run, table, targets
from tests.fuzz.mutation import mutate
from tests.fuzz.target import Target, Wrong
from tests.helpers.regexes import grows

CORPUS_FILES = sorted(path for path in CORPUS.rglob("*") if path.is_file())
EACH = 40


@pytest.fixture(scope="module")
def known() -> dict[str, Target]:
    return {target.name: target for target in targets()}


@pytest.mark.parametrize("path", CORPUS_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_inputs_that_once_failed_are_read(known: dict[str, Target], path: Path) -> None:
    error = failure_of(known[path.parent.name], path.read_bytes())
    assert error is None, repr(error)


def test_a_few_inputs_of_each_reader_are_read(known: dict[str, Target]) -> None:
    for target in known.values():
        chance = random.Random(f"gate/{target.name}")
        for data in [*target.seeds[:EACH], *(mutate(target, chance) for _ in range(EACH))]:
            error = failure_of(target, data)
            assert error is None, (target.name, data, repr(error))


def test_a_reader_that_raises_is_found_and_its_input_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.fuzz import campaign

    def odd(data: bytes) -> None:
        if b"!" in data:
            raise Wrong("an exclamation mark")

    monkeypatch.setattr(campaign, "FOUND", tmp_path)
    target = Target("odd", odd, [b"what is this"], words=[b"!"])
    figures = run([target], seed=1, count=300, seconds=60.0)
    assert figures["odd"].inputs == 300
    (kept,) = figures["odd"].found.values()
    assert b"!" in kept[0].read_bytes()
    assert "odd" in table(figures)
    again = failure_of(target, kept[0].read_bytes())
    assert again is not None
    assert kind_of(again) in figures["odd"].found


def test_an_input_follows_from_the_seed() -> None:
    target = Target("x", lambda _: None, [b"abc def 123\n456", b"zz"], words=[b"word"])
    made = [[mutate(target, random.Random(f"{seed}")) for seed in range(50)] for _ in range(2)]
    assert made[0] == made[1]
    assert len(set(made[0])) > 25


NESTED = b"Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\n"
PUMPS = [
    ("imap", b"* OK hi\r\n\x1e{tag} NO [", b"a"),
    ("imap", b"* OK [CAPABILITY IMAP4rev1 ", b"x "),
    ("imap", b"* ", b"O"),
    ("imap-lines", b"* x ", b"{1}\r\na"),
    ("imap-lines", b"", b"* 1 EXISTS\r\n"),
    ("imap-mailbox", b"* OK [CAPABILITY IMAP4rev1] hi\r\n\x1e{tag} OK\r\n\x1e* LIST (", b'\\"'),
    ("pop3", b"+OK hi\r\n\x1e+OK\r\n", b"a\r\n"),
    ("smtp", b"220-", b"hi\r\n220-"),
    ("smtp", b"220 hi\r\n\x1e250-", b"AUTH \r\n250-"),
    ("headers", b"Received: from a (", b"()"),
    ("headers", b"X: ", b"a\r\n "),
    ("headers", b"", b"(((1 Jan"),
    ("bounces", b"", NESTED),
    ("bounces", NESTED, b"--b\r\n\r\n"),
    ("bounces", NESTED, b"Content-Type: message/rfc822\r\n\r\n"),
    ("bounces", NESTED + b"Content-Type: message/delivery-status\r\n\r\n", b"Action: x\r\n\r\n"),
    ("dkim", b"p=A\x1eDKIM-Signature: d=x; s=y; ", b"a=b; "),
    ("dkim", b"p=A\x1eDKIM-Signature: ", b" \r\n "),
    ("redact", b"", b"c4n4ry-Pa55w0r"),
    ("redact", b"", b"anna"),
    ("webmail", b"HTTP/1.1 200 OK\r\n\r\n", b"<title"),
    ("webmail", b"HTTP/1.1 200 OK\r\n", b"Set-Cookie: a=b\r\n"),
    ("oauth", b"200 ", b"["),
    ("oauth", b'200 {"access_token": "', b"a"),
    ("oauth", b"200 ", b"9"),
    ("certificates", b"", b"0\x80"),
    ("tokens", b"", b"0\x80"),
    ("config", b"a: ", b"["),
    ("config", b"", b"- &a\n "),
    ("names", b"a@", b"b."),
    ("names", b"a@", "ü.".encode()),
    ("times", b"2026-01-01T00:00:00.", b"0"),
    ("http-date", b"HTTP/1.1 200 OK\r\nDate: ", b"(1 "),
    ("oauth-redirect", b"/?state=STATE&", b"a=%41&"),
    ("messages", b"", b"{x}"),
    ("pages", b"GET /?", b"a=b&"),
    ("pages", b"GET /", b"../"),
]  # fmt: skip
"""Texts that would keep a reader busy whose work grows faster than they do: what comes first, what is repeated."""


def test_reading_takes_time_linear_in_the_input(known: dict[str, Target]) -> None:
    wrong = []
    for name, before, pump in PUMPS:
        work = partial(_read, known[name])
        if grows(work, before.decode("latin-1"), pump.decode("latin-1"), "", 4096):
            wrong.append((name, before, pump))
    assert wrong == []


def _read(reader: Target, text: str) -> object:
    return reader.run(text.encode("latin-1"))


def test_quadratic_work_is_found() -> None:
    def compared(text: str) -> int:
        return sum(one == other for one in text for other in text)

    assert grows(compared, "", "a", "", 400)
    assert not grows(lambda text: [one for one in text for _ in range(100)], "", "a", "", 400)
