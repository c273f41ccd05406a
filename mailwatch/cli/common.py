"""Shared by several verbs: the config, its ledger, windows of time, and the owner's signature."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from mailwatch.cli.errors import print_error
from mailwatch.cli.language import language as language
from mailwatch.config import Config, build_authorities, default_path, load
from mailwatch.config.errors import FieldError
from mailwatch.config.preflight import file_problem
from mailwatch.config.secrets import read_secret
from mailwatch.store import Reader
from mailwatch.store.place import configured_place
from mailwatch.times import Millis, parse_moment, parse_window

if TYPE_CHECKING:
    from pyhanko.sign import SimpleSigner


PIPE_COLUMNS = 100
"""Columns of a drawing in a pipe, where COLUMNS is unset."""


def add_options(parser: argparse.ArgumentParser, *, json: bool = True) -> None:
    """Add --config (also before the verb) and --json."""
    # SUPPRESS: a --config given before the verb must not be overwritten by a default here.
    parser.add_argument(
        "--config", type=Path, metavar="FILE", default=argparse.SUPPRESS, help="path of the config file"
    )
    if json:
        parser.add_argument("--json", action="store_true", help="print JSON")


def add_limit_option(parser: argparse.ArgumentParser) -> None:
    """Add --limit, the number of items to list."""
    parser.add_argument("--limit", type=_count, metavar="N", help="at most so many, the newest")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number from 1")
    return int(text)


def config_path(args: argparse.Namespace) -> Path:
    """Return the config file given on the command line, else the default. Raises ConfigNotFoundError."""
    given: Path | None = args.config
    return given or default_path()


def open_config(args: argparse.Namespace) -> Config:
    """Load the config. Raises ConfigError."""
    return load(config_path(args))


@contextlib.contextmanager
def open_reader(config: Config) -> Iterator[Reader]:
    """Open the ledger for reading, even while `mailwatch run` writes it. Raises FileNotFoundError."""
    with contextlib.closing(Reader.open(configured_place(config))) as reader:
        yield reader


def stdout() -> Console:
    """Return the console for data: as wide as COLUMNS says, else as the terminal; in a pipe PIPE_COLUMNS."""
    console = Console()
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        console.width = PIPE_COLUMNS
    return console


def parse_window_options(config: Config, text_from: str, text_to: str) -> tuple[Millis, Millis]:
    """Parse --from and --to in the config's time zone. Exits with status 2 if they are not a window of time."""
    try:
        return parse_window(text_from, text_to, config.zone())
    except ValueError as error:
        # Of the options, not of the fields of a request.
        print_error(f"mailwatch: --{error}")
        raise SystemExit(2) from None


def parse_time(config: Config, text: str | None, name: str) -> Millis | None:
    """Parse the optional time of --`name` in the config's time zone. Exits with status 2 if it is not a time."""
    if text is None:
        return None
    try:
        return parse_moment(text, f"--{name}", config.zone())
    except ValueError as error:
        print_error(f"mailwatch: {error}")
        raise SystemExit(2) from None


def open_signer(config: Config) -> SimpleSigner | None:
    """Return the signer of PDFs, None if the config has no `signing`. Raises EvidenceError."""
    section = config.signing
    if section is None:
        return None
    from mailwatch.evidence.ledger_range import EvidenceError
    from mailwatch.evidence.pdf_signature import load_signer  # Loading pyHanko is slow.

    for path in (section.key_file, section.certificate_file):
        if path is not None and (what := file_problem(path)):
            raise EvidenceError(what)
    password = None
    if section.password_file or section.password_env:
        try:
            password = read_secret(section.password_file, section.password_env)
        except FieldError as fault:
            raise EvidenceError(f"its password: {fault}") from None
    return load_signer(section.key_file, section.certificate_file, password)


def sign_if_configured(config: Config, pdf: bytes) -> bytes:
    """Return the PDF, signed if the config has `signing`. Raises EvidenceError."""
    made = open_signer(config)
    if made is None or config.signing is None:
        return pdf
    from mailwatch.evidence.pdf_signature import sign

    authorities = build_authorities(config) if config.signing.timestamp else ()
    return sign(pdf, made, authorities[0] if authorities else None)


def printable(text: str) -> str:
    """Return text of an untrusted file as one line: no line feeds and no terminal escapes."""
    text = text.replace("\N{NO-BREAK SPACE}", " ")
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
