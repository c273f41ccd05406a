"""Which node probes which of the 256 shares of the targets, as rows: any node's pages show it, and the next active
node goes on with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from mailwatch.store.errors import StoreError

_READ = sa.text("SELECT share, node FROM probe_shares")
_WRITE = sa.text(
    "INSERT INTO probe_shares (share, node) "
    "SELECT * FROM unnest(CAST(:shares AS smallint[]), CAST(:nodes AS text[])) "
    "ON CONFLICT (share) DO UPDATE SET node = excluded.node"
)
_FREE = sa.text("DELETE FROM probe_shares WHERE share = ANY(CAST(:shares AS smallint[]))")


def read_division(made: sa.Engine) -> dict[int, str]:
    """Return the node of each share that one has. Raises StoreError."""
    with made.connect() as connection:
        return {row.share: row.node for row in connection.execute(_READ)}


def write_division(made: sa.Engine, former: Sequence[str], division: Sequence[str]) -> None:
    """Write the shares that changed. `made` refuses who is not active. Raises StoreError; EvictedError."""
    changed = {share: node for share, node in enumerate(division) if node != former[share]}
    taken: Mapping[int, str] = {share: node for share, node in changed.items() if node}
    freed = [share for share, node in changed.items() if not node]
    try:
        with made.begin() as connection:
            if taken:
                connection.execute(_WRITE, {"shares": list(taken), "nodes": list(taken.values())})
            if freed:
                connection.execute(_FREE, {"shares": freed})
    except sa.exc.IntegrityError as error:
        # A node that is forgotten meanwhile.
        raise StoreError(f"the division of the targets was not written: {error.orig}") from error
