"""How Alembic reaches the store: on the connection that `headstart.store.schema` hands over."""

from alembic import context

from headstart.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite cannot alter a table in place
)
with context.begin_transaction():
    context.run_migrations()
