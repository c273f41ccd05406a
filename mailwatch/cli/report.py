"""mailwatch report: the evidence of an outage as one file."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from mailwatch.cli.opening import local_zone, open_config, open_reader, options
from mailwatch.cli.signing import signed
from mailwatch.config import Config, build_authorities, claims, effective
from mailwatch.evidence.bundle import File, pretty
from mailwatch.evidence.case import Case, certificates, find, write
from mailwatch.evidence.claims.stated import claim
from mailwatch.evidence.gather import NoCase
from mailwatch.store import Reader, Tokens
from mailwatch.store.keys import Keys, load_or_make


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    verb = subparsers.add_parser("report", help="write the evidence of an outage into one file")
    options(verb, json=False)
    verb.add_argument("outage", metavar="OUTAGE_ID", help="its id, or how it begins; see `mailwatch outages`")
    verb.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.zip", help="where to write it")
    verb.add_argument("--lang", choices=("it", "en"), default=language(), help="the report's language")
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    config = open_config(args)
    reader = open_reader(config)
    keys = load_or_make(config.data_dir)
    tokens = Tokens(config.data_dir)
    with Console(stderr=True).status("gathering the entries") as status:
        try:
            case = find(reader, tokens, keys, args.outage, None)
        except NoCase as error:
            print(f"mailwatch: {error}", file=sys.stderr)
            return 1
        case.statement["service"] = _service(config, case.payload["target"])
        if section := claims.find(config.claims, case.payload):
            case.statement["claim"] = claim(section, case.statement["outage"])
        status.update("drawing the report")
        from mailwatch.evidence.report import report  # It loads Typst, which other commands do not need.

        place = ", ".join(filter(None, (config.vantage_point.name, config.vantage_point.place)))
        pdf = report(reader, case, pretty(case.statement), place, args.lang, local_zone())
        status.update("signing the report" if config.signing else "writing the bundle")
        try:
            pdf = signed(config, pdf)
        except NoCase as error:
            print(f"mailwatch: {error}", file=sys.stderr)
            return 1
        files = [File("report.pdf", pdf), *_enclosed(config, case)]
        size = _write(args.output, reader, keys, case, args.lang, files)
    reader.close()
    print(f"{args.output}: {size:,} bytes; check it with: mailwatch verify {args.output}")
    return 0


def _write(path: Path, reader: Reader, keys: Keys, case: Case, language: str, files: list[File]) -> int:
    """Write beside the wanted name first: a bundle is whole or not there."""
    torn = path.with_name(path.name + ".part")
    file = os.open(torn, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(file, "wb") as out:
            write(out, reader, keys, case, language, files)
        torn.rename(path)
    except BaseException:
        torn.unlink(missing_ok=True)
        raise
    return path.stat().st_size


def _enclosed(config: Config, case: Case) -> list[File]:
    used = {token.authority for token in case.found.tokens}
    known = [one for one in build_authorities(config) if one.name in used and one.ca_file]
    return [certificates(one.name, one.ca_file) for one in known if one.ca_file]


def _service(config: Config, name: str) -> dict[str, Any] | None:
    """Return what the config says of the target today, without anything of its login."""
    for target in effective(config)["targets"]:
        if target["name"] == name:
            shown = ("kind", "provider", "host", "port", "tls", "interval", "timeout", "url")
            return {key: target[key] for key in shown if key in target} | {"with_login": "login" in target}
    return None


def language() -> str:
    """Return Italian where the machine speaks it."""
    words = (os.environ.get(name, "") for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    return "it" if next(filter(None, words), "").startswith("it") else "en"
