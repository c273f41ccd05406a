"""mailwatch providers: the built-in catalogue of mail providers."""

from __future__ import annotations

import argparse
import json
import sys

from rich.console import Console
from rich.table import Table

from mailwatch.config import catalogue


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    verb.add_argument(
        "word", nargs="?", default="", metavar="WORD", help="find by key, name, domain, address or host"
    )
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    served = catalogue.by_domain(args.word) if "@" in args.word else None
    found = (served,) if served else catalogue.search_providers(args.word)
    if args.json:
        print(json.dumps([_plain(provider) for provider in found], indent=2, ensure_ascii=False))
    elif found:
        _print(found)
    if not found:
        print(f"no provider matches '{args.word}'; mailwatch providers lists all", file=sys.stderr)
        return 1
    return 0


def _print(found: tuple[catalogue.Provider, ...]) -> None:
    table = Table("key", "name", "kind", box=None, padding=(0, 2, 0, 0))
    for column in ("server", "tls", "login"):
        table.add_column(column, no_wrap=True)
    table.add_column("domains")
    for provider in found:
        domains = " ".join(provider.domains[:5]) + (" ..." if len(provider.domains) > 5 else "")
        for number, server in enumerate(provider.servers):
            head = (provider.key, provider.name) if number == 0 else ("", "")
            where = f"{server.host}:{server.port}"
            login = f"{'/'.join(server.auth)}, {server.username}"
            table.add_row(*head, server.kind, where, server.tls, login, domains if number == 0 else "")
    console = Console()
    if not console.is_terminal:
        console.width = 200  # For grep: one server, one line.
    console.print(table)
    print(f"Source: {catalogue.SOURCE}, seen {catalogue.SOURCE_DATE}", file=sys.stderr)


def _plain(provider: catalogue.Provider) -> dict[str, object]:
    servers = [
        {"kind": s.kind, "host": s.host, "port": s.port, "tls": s.tls, "auth": s.auth, "username": s.username}
        for s in provider.servers
    ]
    return {"key": provider.key, "name": provider.name, "domains": provider.domains, "servers": servers}
