"""Say how a server's reply is judged, and by which row of replies.toml.

python -m tools.reply "pop3 PASS: -ERR [SYS/TEMP] mailbox store is hibernating"
"""

from __future__ import annotations

import argparse

from mailwatch.probes.classify import Reply, classify


def main() -> None:
    """Print a line for each reply."""
    parser = argparse.ArgumentParser(prog="python -m tools.reply", description=__doc__)
    parser.add_argument("replies", nargs="+", metavar="'PROTOCOL COMMAND: REPLY'")
    for written in parser.parse_args().replies:
        found = classify(Reply.parse(written))
        row = f"row {found.row.id}" if found.row else "no row: judged by its class and its place in the dialogue"
        print(f"{written}\n    {found.cause} ({found.cause.outcome}), {row}")


if __name__ == "__main__":
    main()
