"""Alembic's entry: migrates over the connection that mailwatch.store.schema hands in."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
