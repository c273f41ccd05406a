"""What the migrations say in the words of either engine."""

import sqlalchemy as sa
from alembic import op

INDEX = sa.BigInteger().with_variant(sa.Integer, "sqlite")
NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
"""Text that is sorted by its bytes on both."""


def is_postgresql() -> bool:
    """Return whether the tables are PostgreSQL's."""
    return op.get_bind().dialect.name == "postgresql"


def create_index(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    """Create an index of the rows that fulfil a condition."""
    condition = sa.text(where)
    op.create_index(name, table, columns, unique=unique, sqlite_where=condition, postgresql_where=condition)


def forbid(table: str, change: str) -> None:
    """Forbid UPDATE or DELETE of a table's rows, by the trigger TABLE_no_CHANGE."""
    name = f"{table}_no_{change.lower()}"
    if is_postgresql():
        op.execute(
            f"CREATE TRIGGER {name} BEFORE {change} ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION mailwatch_refuse()"
        )
    else:
        op.execute(
            f"CREATE TRIGGER {name} BEFORE {change} ON {table} "
            "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
        )
