"""A PostgreSQL with a replica that can take its place: streaming replication, synchronous or not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.patience import tries
from tests.servers.postgresql import OWNER, PostgreSql
from tests.servers.program import HOST


class Replicated:
    """Two clusters. `url` names both, and finds the one that can be written."""

    def __init__(self, primary: PostgreSql, replica: PostgreSql, database: str) -> None:
        self.primary, self.replica, self.database = primary, replica, database
        hosts = f"{HOST}:{primary.port},{HOST}:{replica.port}"
        self.url = f"postgresql://{OWNER}@{hosts}/{database}?target_session_attrs=read-write"

    def wait_streaming(self) -> None:
        """Return once the replica has all that there is, and streams."""
        query = (
            "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' "
            "AND replay_lsn = pg_current_wal_lsn()"
        )
        with self.primary.connect() as connection:
            for _ in tries():
                if connection.execute(query).fetchone() == (1,):
                    return
        raise AssertionError("the replica does not stream")

    def cut(self) -> None:
        """Have the replica receive nothing more: from here on it lags."""
        with self.replica.connect() as connection:
            connection.execute("ALTER SYSTEM SET primary_conninfo = ''")
            connection.execute("SELECT pg_reload_conf()")
            for _ in tries():
                if connection.execute("SELECT count(*) FROM pg_stat_wal_receiver").fetchone() == (0,):
                    return
        raise AssertionError("the replica still receives")

    def fail_over(self) -> None:
        """Kill the primary, with all its processes, and promote the replica."""
        self.primary.kill()
        self.replica.promote()


def _source(primary: PostgreSql) -> str:
    return f"host={HOST} port={primary.port} user={OWNER} application_name=replica"


@contextlib.contextmanager
def replicated(folder: Path, *, synchronous: bool, durable: bool = False) -> Iterator[Replicated]:
    """A primary with a database, and its replica, running."""
    settings = {"synchronous_standby_names": "replica", "synchronous_commit": "on"} if synchronous else {}
    with contextlib.ExitStack() as stack:
        # Nothing waits for a replica that is not made yet.
        primary = PostgreSql(folder / "primary", durable=durable)
        stack.enter_context(primary.running())
        database = primary.make_database()
        replica = PostgreSql(folder / "replica", durable=durable, copy_of=_source(primary))
        stack.enter_context(replica.running())
        pair = Replicated(primary, replica, database)
        pair.wait_streaming()
        with primary.connect() as connection:
            for name, value in settings.items():
                connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            connection.execute("SELECT pg_reload_conf()")
            for _ in tries():
                row = connection.execute("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'")
                if not synchronous or row.fetchone() == (1,):
                    break
        yield pair
