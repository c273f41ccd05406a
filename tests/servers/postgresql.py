"""PostgreSQL: a cluster of the tests' own, and PgBouncer before it."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import psycopg.sql

from tests.helpers.patience import PATIENCE, tries
from tests.servers.program import HOST, Program, free_port

PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/usr/lib/postgresql/15/bin"))
"""Where Debian's package has its programs."""
POSTGRES = PROGRAMS / "postgres"
PGBOUNCER = Path("/usr/sbin/pgbouncer")
OWNER = "owner"
"""The role that owns everything. It needs no password."""
SECRETIVE, PASSWORD = "secretive", "pass word'\\/@"
"""A role that needs a password, and may do the same."""

SETTINGS = {
    "listen_addresses": HOST,
    "max_connections": "200",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "wal_level": "replica",
    "log_min_messages": "warning",
    "logging_collector": "off",
    "timezone": "UTC",
    # Clocks that the tests move say nothing here.
    "stats_fetch_consistency": "none",
}
VOLATILE = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off"}
"""Nothing waits for the disk: no machine crashes in a test, and what ends PostgreSQL alone loses nothing then."""


SILENT = ("--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8")


class PostgreSql(Program):
    """A cluster in `directory`, as an unprivileged user, since PostgreSQL refuses root.

    `durable`: every commit waits for the disk, as it does with users. `settings` are further ones.
    """

    def __init__(
        self, directory: Path, *, durable: bool = False, settings: dict[str, str] | None = None, copy_of: str = ""
    ) -> None:
        self.port = free_port()
        self.data = directory / "cluster"
        self.directory = directory
        self._numbers = itertools.count(1)
        wanted = SETTINGS | ({} if durable else VOLATILE) | {"unix_socket_directories": str(directory)}
        wanted |= settings or {}
        options = [part for name, value in wanted.items() for part in ("-c", f"{name}={value}")]
        command = as_owner(str(POSTGRES), "-D", str(self.data), "-p", str(self.port), *options)
        super().__init__(directory, command, {self.port: False})
        if copy_of:
            self._copy_from(copy_of)
        else:
            self._initialise()

    def _initialise(self) -> None:
        owner = _owner()
        self.directory.mkdir(parents=True, exist_ok=True)
        os.chown(self.directory, owner.pw_uid, owner.pw_gid)
        self._tool(
            "initdb",
            "-D",
            str(self.data),
            "-U",
            OWNER,
            "--no-sync",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
        )
        # The first line that fits counts.
        rules = (
            f"host all {SECRETIVE} {HOST}/32 scram-sha-256\nlocal all all trust\nhost all all {HOST}/32 trust\n"
        )
        rules += f"local replication all trust\nhost replication all {HOST}/32 trust\n"
        (self.data / "pg_hba.conf").write_text(rules)

    def _copy_from(self, primary: str) -> None:
        """Make a standby of the cluster with this connection string."""
        owner = _owner()
        self.directory.mkdir(parents=True, exist_ok=True)
        os.chown(self.directory, owner.pw_uid, owner.pw_gid)
        self._tool(
            "pg_basebackup", "-D", str(self.data), "-d", primary, "-R", "-X", "stream", "-c", "fast", "--no-sync"
        )

    def _tool(self, name: str, *arguments: str) -> None:
        command = as_owner(str(PROGRAMS / name), *arguments)
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"

    def start(self) -> None:
        """Start it and return once it answers; make the role with a password."""
        super().start()
        with self.connect() as connection:
            standby = connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
            known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [SECRETIVE]).fetchone()
            if not standby and not known:
                make = psycopg.sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}")
                connection.execute(make.format(psycopg.sql.Identifier(SECRETIVE), PASSWORD))

    def _serving(self) -> bool:
        with contextlib.suppress(psycopg.Error), self.connect():
            return True
        return False

    def stop(self) -> None:
        """Stop it, ending its connections, and return once no process is left. Twice does no harm."""
        self._end(signal.SIGINT)
        super().stop()

    def kill(self) -> None:
        """Kill -9 the server with all its processes, and return once its port is closed."""
        self._end(signal.SIGKILL)
        super().stop()

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        master = self._process.pid
        # Each of its processes has a session of its own.
        children = [int(pid) for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split()]
        os.kill(master, how)
        os.kill(master, signal.SIGCONT)
        if how is signal.SIGKILL:
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, how)
        self._process.wait(PATIENCE)
        for _ in tries():
            if not any(_lives(child) for child in children):
                return
        raise AssertionError(f"{POSTGRES} left processes: {children}")

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop the server with all its processes: connections live on, and nothing answers."""
        assert self._process is not None
        master = self._process.pid
        # The master first: it would begin processes for others.
        os.kill(master, signal.SIGSTOP)
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in (*map(int, children), master):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def promote(self) -> None:
        """Make a standby the primary, and return once it is."""
        self._tool("pg_ctl", "promote", "-D", str(self.data), "-w")

    def connect(self, database: str = "postgres", **options: object) -> psycopg.Connection[tuple[object, ...]]:
        """Connect as the owner, each statement a transaction of its own."""
        return psycopg.connect(
            host=HOST, port=self.port, user=OWNER, dbname=database, autocommit=True, connect_timeout=5,
            **options,  # type: ignore[arg-type]
        )  # fmt: skip

    def url(self, database: str, user: str = OWNER) -> str:
        """Return the address of a database, without a password."""
        return f"postgresql://{user}@{HOST}:{self.port}/{database}"

    def make_database(self, template: str = "template1") -> str:
        """Make a database as a copy of another one that nobody uses; return its name."""
        name = f"test{next(self._numbers)}"
        with self.connect() as connection:
            make = psycopg.sql.SQL("CREATE DATABASE {} TEMPLATE {}")
            connection.execute(make.format(psycopg.sql.Identifier(name), psycopg.sql.Identifier(template)))
        return name

    def drop_database(self, name: str) -> None:
        """Remove a database, ending its connections."""
        with self.connect() as connection:
            connection.execute(
                psycopg.sql.SQL("DROP DATABASE {} WITH (FORCE)").format(psycopg.sql.Identifier(name))
            )

    @contextlib.contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        """A database of a test's own: its name."""
        name = self.make_database(template)
        try:
            yield name
        finally:
            self.drop_database(name)


PGBOUNCER_INI = """\
[databases]
* = host={host} port={behind} user={owner}
[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
logfile = {directory}/log
server_idle_timeout = 5
"""


class PgBouncer(Program):
    """A pooler before a cluster, by default in transaction mode: each transaction may get another connection."""

    def __init__(self, directory: Path, server: PostgreSql, *, mode: str = "transaction", size: int = 4) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        config = directory / "pgbouncer.ini"
        config.write_text(
            PGBOUNCER_INI.format(
                host=HOST,
                behind=server.port,
                port=self.port,
                mode=mode,
                size=size,
                directory=directory,
                owner=OWNER,
            )
        )
        owner = _owner()
        os.chown(directory, owner.pw_uid, owner.pw_gid)
        super().__init__(directory, as_owner(str(PGBOUNCER), "-q", str(config)), {self.port: False})

    def _serving(self) -> bool:
        with contextlib.suppress(psycopg.Error), psycopg.connect(self.url("postgres"), connect_timeout=5):
            return True
        return False

    def url(self, database: str, user: str = OWNER) -> str:
        """Return the address of a database behind it."""
        return f"postgresql://{user}@{HOST}:{self.port}/{database}"


def as_owner(*command: str) -> tuple[str, ...]:
    """Return a command that runs as the cluster's user, and ends with this process, however that ends."""
    setpriv = shutil.which("setpriv") or "/usr/bin/setpriv"
    if os.geteuid() != 0:
        return (setpriv, "--pdeathsig=QUIT", *command)
    owner = _owner()
    who = (f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups")
    return (setpriv, "--pdeathsig=QUIT", *who, *command)


def _owner() -> pwd.struct_passwd:
    """Return the user of the cluster: this one, unless it is root."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
