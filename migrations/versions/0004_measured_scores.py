"""An index on the scores that were measured here, whose times tell what further jobs will take."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_MEASURED = sa.text("import_id IS NULL")


def upgrade() -> None:
    op.create_index(
        "ix_scores_measured", "scores", ["id"], sqlite_where=_MEASURED, postgresql_where=_MEASURED
    )


def downgrade() -> None:
    op.drop_index("ix_scores_measured", "scores")
