"""Alembic's migrations: the only authority over the schema."""
