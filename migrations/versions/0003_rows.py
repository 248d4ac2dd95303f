"""The rows of targets; what an import has to know beside its source."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

# SQLite numbers rows by itself only under the exact type INTEGER.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("targets", sa.Column("fingerprint", sa.Text()))
    op.add_column("targets", sa.Column("profile", sa.JSON()))
    op.add_column("imports", sa.Column("params", sa.JSON(), nullable=False, server_default="{}"))
    op.create_table(
        "target_chunks",
        sa.Column("id", _ID, nullable=False),
        sa.Column("target_id", _ID, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["target_id"], ["targets.id"], name="fk_target_chunks_target_id"),
        sa.PrimaryKeyConstraint("id", name="pk_target_chunks"),
    )
    op.create_index("ix_target_chunks_target_id", "target_chunks", ["target_id"])


def downgrade() -> None:
    op.drop_table("target_chunks")
    op.drop_column("imports", "params")
    op.drop_column("targets", "profile")
    op.drop_column("targets", "fingerprint")
