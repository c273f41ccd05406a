"""Entry point of Alembic: migrates over the connection passed in by mailwatch.store.schema."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
