"""Two roles for one ledger: the owner makes and changes the tables, and MailWatch may only do what it must.

Who may not drop a trigger cannot change what is on record. With one role, the triggers keep only mistakes away.
"""

from __future__ import annotations

import sqlalchemy as sa

from mailwatch.errors import OperationError
from mailwatch.progress import StartupProgress
from mailwatch.store.first_start import migrate_database
from mailwatch.store.postgres import PostgresPlace
from mailwatch.store.schema import head, token_files

_RIGHTS = {
    "checkpoints": "SELECT, INSERT",
    # Rows that a pack holds may go; the trigger refuses all others.
    "entries": "SELECT, INSERT, DELETE",
    head.name: "SELECT, INSERT, UPDATE",
    token_files.name: "SELECT, INSERT",
    "alembic_version": "SELECT",
}
"""The rights of MailWatch in the tables of the record. In all others its rows are changed and deleted."""
_USUAL = "SELECT, INSERT, UPDATE, DELETE"


def prepare_tables(owner: PostgresPlace, role: str) -> None:
    """Make or change the tables as their owner, and give `role` the rights that MailWatch needs.

    Raises StoreError, OperationError.
    """
    made = owner.engine()
    try:
        migrate_database(owner, made, StartupProgress())
        with made.begin() as connection:
            if connection.exec_driver_sql("SELECT current_user").scalar_one() == role:
                raise OperationError(
                    f"{owner}: the owner and the role in the config are both {role}; use two roles"
                )
            known = sa.text("SELECT 1 FROM pg_roles WHERE rolname = :role")
            if connection.execute(known, {"role": role}).scalar() is None:
                raise OperationError(f"{owner}: there is no role {role}; make it (docs/how-to/postgresql.md)")
            _grant(connection, role)
    finally:
        made.dispose()


def _grant(connection: sa.Connection, role: str) -> None:
    quoted = connection.dialect.identifier_preparer.quote(role)
    schema = connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {schema} TO {quoted}")
    for table in sa.inspect(connection).get_table_names():
        connection.exec_driver_sql(f"REVOKE ALL ON {table} FROM {quoted}")
        connection.exec_driver_sql(f"GRANT {_RIGHTS.get(table, _USUAL)} ON {table} TO {quoted}")
    connection.exec_driver_sql(f"GRANT USAGE, UPDATE ON ALL SEQUENCES IN SCHEMA {schema} TO {quoted}")
