"""mailwatch providers: the built-in catalogue of mail providers."""

from __future__ import annotations

import argparse
import json

from mailwatch.cli.common import stdout
from mailwatch.cli.errors import print_error
from mailwatch.cli.text_table import Column, TextTable, print_lines, table_width
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
        print_error(f"no provider matches '{args.word}'; mailwatch providers lists all")
        return 1
    return 0


def _print(found: tuple[catalogue.Provider, ...]) -> None:
    columns = (
        Column(header="key"),
        Column(header="name", shrinks=True),
        Column(header="kind"),
        Column(header="server"),
        Column(header="tls"),
        Column(header="login", below=True),
        Column(header="domains", below=True),
    )
    table, console = TextTable(columns), stdout()
    wide = table_width(console) is None
    for provider in found:
        domains = " ".join(provider.domains[:5]) + (" ..." if len(provider.domains) > 5 else "")
        for number, server in enumerate(provider.servers):
            # Where it stands below the row, it must not part a provider's servers.
            here = number == (0 if wide else len(provider.servers) - 1)
            head = (provider.key, provider.name) if number == 0 else ("", "")
            where = f"{server.host}:{server.port}"
            login = f"{'/'.join(server.auth)}, {server.username}"
            table.add_row(*head, server.kind, where, server.tls, login, domains if here else "")
    print_lines(console, table)
    print_error(f"Source: {catalogue.SOURCE}, seen {catalogue.SOURCE_DATE}")


def _plain(provider: catalogue.Provider) -> dict[str, object]:
    servers = [
        {"kind": s.kind, "host": s.host, "port": s.port, "tls": s.tls, "auth": s.auth, "username": s.username}
        for s in provider.servers
    ]
    return {"key": provider.key, "name": provider.name, "domains": provider.domains, "servers": servers}
