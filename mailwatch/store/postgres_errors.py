"""What PostgreSQL's errors mean to a ledger, by their SQLSTATE: away, full, read-only, broken, or of the entry.

https://www.postgresql.org/docs/15/errcodes-appendix.html
"""

from __future__ import annotations

import sys

from mailwatch.store.errors import DatabaseAwayError, DiskFullError, StoreError, StoreUnavailableError, damaged

_AWAY = ("08", "57P")
"""The connection is lost, or the server stops, starts or fails over."""
_DAMAGED = ("XX001", "XX002", "42P01", "42703", "42883", "23", "P0001")
"""A page or an index is broken; a table, column or function is missing; a constraint or a trigger refused."""
_VALUES = ("22", "23502", "54")
"""The values of the statement are at fault."""
_ADVICE = {
    "53100": ("the disk of the database server is full", "free some space there"),
    "53300": ("the database server has no connection left", "raise max_connections, or use a pooler"),
    "25006": (
        "the database is read-only",
        "it may be a standby: name the primary, or all servers with target_session_attrs=read-write",
    ),
    "28": ("the database refuses our user or password", "check the user, the password and pg_hba.conf"),
    "3D000": ("the database does not exist", "create it (docs/how-to/postgresql.md)"),
    "3F000": ("the schema does not exist", "check search_path (docs/how-to/postgresql.md)"),
    "42501": (
        "our user lacks a right in the database",
        "run `mailwatch ledger prepare` as the owner of the tables (docs/how-to/postgresql.md)",
    ),
    "55P03": ("a lock in the database is held by others", "see pg_stat_activity"),
    "57014": ("the database cancelled a statement", "see statement_timeout"),
}


def translate(place: str, error: BaseException) -> StoreError | None:
    """Translate an error of psycopg; None if it is none, or the statement's own values are at fault."""
    # Where psycopg was never imported it cannot have raised anything.
    psycopg = sys.modules.get("psycopg")
    if psycopg is None or not isinstance(error, psycopg.Error):
        return None
    code = getattr(error, "sqlstate", None) or ""
    what = str(error).strip().partition("\n")[0]
    if not code:
        # Without a code the message is of libpq (no connection, or a lost one) or of psycopg itself.
        code = _code_of(what)
        if not code and not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
            return None
    if code.startswith(_VALUES):
        return None
    if code.startswith(_DAMAGED):
        return damaged(place, what)
    for begin, (why, advice) in _ADVICE.items():
        if code.startswith(begin):
            kind = DiskFullError if begin == "53100" else StoreUnavailableError
            return kind(f"{place}: {why} ({what}); {advice}", why)
    if not code or code.startswith(_AWAY):
        return DatabaseAwayError(
            f"{place} does not answer ({what}); check whether it runs and can be reached",
            "the database does not answer",
        )
    return StoreUnavailableError(f"{place} cannot be used now ({what})", f"the database cannot be used ({code})")


def _code_of(what: str) -> str:
    """Return the SQLSTATE of a failed connection: psycopg keeps only the server's words."""
    if "password authentication failed" in what or "pg_hba.conf" in what or "no password supplied" in what:
        return "28000"
    if 'database "' in what and "does not exist" in what:
        return "3D000"
    if "too many connections" in what or "too many clients" in what or "connection slots" in what:
        return "53300"
    return ""
