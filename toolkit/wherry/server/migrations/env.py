"""What Alembic runs: steps on the connection that was handed in, in its transaction."""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    # it would say so, but then SQLite's tables could not be made in our transaction
    transactional_ddl=True,
)
context.run_migrations()
