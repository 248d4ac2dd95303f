"""What the weights of checkpoints say of their descent, and who said it."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_COLUMNS = ("lineage", "lineage_reason", "lineage_by")


def upgrade() -> None:
    for name in _COLUMNS:
        op.add_column("checkpoints", sa.Column(name, sa.Text()))


def downgrade() -> None:
    for name in _COLUMNS:
        op.drop_column("checkpoints", name)
