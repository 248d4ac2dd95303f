"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# SQLite numbers rows by itself only under the exact type INTEGER.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _create_catalogue()
    _create_imports()
    _create_evidence()
    _create_requests()


def downgrade() -> None:
    for table in (
        "requests",
        "posteriors",
        "scores",
        "evidence",
        "upload_chunks",
        "imports",
        "checkpoints",
        "targets",
        "families",
    ):
        op.drop_table(table)


def _create_catalogue() -> None:
    op.create_table(
        "families",
        sa.Column("id", _ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_families"),
        sa.UniqueConstraint("name", name="uq_families_name"),
    )
    op.create_table(
        "targets",
        sa.Column("id", _ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("task", sa.Text()),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("train_size", sa.BigInteger()),
        sa.Column("classes", sa.BigInteger()),
        sa.Column("rows_tested", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_targets"),
        sa.UniqueConstraint("name", name="uq_targets_name"),
    )
    op.create_table(
        "checkpoints",
        sa.Column("id", _ID, nullable=False),
        sa.Column("family_id", _ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("is_vanilla", sa.Boolean(), nullable=False),
        sa.Column("parameters", sa.BigInteger()),
        sa.Column("license", sa.Text()),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["family_id"], ["families.id"], name="fk_checkpoints_family_id"),
        sa.PrimaryKeyConstraint("id", name="pk_checkpoints"),
        sa.UniqueConstraint("family_id", "name", "revision", name="uq_checkpoints_family_id_name_revision"),
    )
    op.create_index(
        "uq_checkpoints_vanilla",
        "checkpoints",
        ["family_id"],
        unique=True,
        sqlite_where=sa.text("is_vanilla IS 1"),
        postgresql_where=sa.text("is_vanilla IS true"),
    )


def _create_imports() -> None:
    op.create_table(
        "imports",
        sa.Column("id", _ID, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("released", sa.Boolean(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True)),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("report", sa.JSON()),
        sa.Column("error", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'succeeded', 'failed')", name=op.f("ck_imports_state")
        ),
        sa.PrimaryKeyConstraint("id", name="pk_imports"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "upload_chunks",
        sa.Column("id", _ID, nullable=False),
        sa.Column("import_id", _ID, nullable=False),
        sa.Column("file", sa.Text(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["import_id"], ["imports.id"], name="fk_upload_chunks_import_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_upload_chunks"),
    )
    op.create_index("ix_upload_chunks_import_id_file", "upload_chunks", ["import_id", "file"])


def _create_evidence() -> None:
    op.create_table(
        "evidence",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_evidence_single_row")),
        sa.PrimaryKeyConstraint("id", name="pk_evidence"),
    )
    op.execute("INSERT INTO evidence (id, version) VALUES (1, 0)")
    op.create_table(
        "posteriors",
        sa.Column("id", _ID, nullable=False),
        sa.Column("family_id", _ID, nullable=False),
        sa.Column("evidence_version", sa.BigInteger(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["family_id"], ["families.id"], name="fk_posteriors_family_id"),
        sa.PrimaryKeyConstraint("id", name="pk_posteriors"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_posteriors_family_id_evidence_version", "posteriors", ["family_id", "evidence_version"]
    )
    op.create_table(
        "scores",
        sa.Column("id", _ID, nullable=False),
        sa.Column("checkpoint_id", _ID, nullable=False),
        sa.Column("target_id", _ID, nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("method_version", sa.Text(), nullable=False),
        sa.Column("params_digest", sa.Text(), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("stderr", sa.Double()),
        sa.Column("rows_tested", sa.BigInteger()),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("provenance", sa.JSON(), nullable=False),
        sa.Column("quarantine", sa.Text()),
        sa.Column("quarantine_note", sa.Text()),
        sa.Column("import_id", _ID),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["checkpoint_id"], ["checkpoints.id"], name="fk_scores_checkpoint_id"),
        sa.ForeignKeyConstraint(["import_id"], ["imports.id"], name="fk_scores_import_id"),
        sa.ForeignKeyConstraint(["target_id"], ["targets.id"], name="fk_scores_target_id"),
        sa.PrimaryKeyConstraint("id", name="pk_scores"),
    )
    op.create_index("ix_scores_target_id", "scores", ["target_id"])
    op.create_index(
        "uq_scores_in_force",
        "scores",
        ["checkpoint_id", "target_id", "method", "method_version", "params_digest", "seed"],
        unique=True,
        sqlite_where=sa.text("quarantine IS NULL"),
        postgresql_where=sa.text("quarantine IS NULL"),
    )
    op.create_index(
        "uq_scores_key_value",
        "scores",
        ["checkpoint_id", "target_id", "method", "method_version", "params_digest", "seed", "value"],
        unique=True,
    )


def _create_requests() -> None:
    op.create_table(
        "requests",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("body_digest", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("headers", sa.JSON()),
        sa.Column("body", sa.LargeBinary()),
        sa.PrimaryKeyConstraint("key", "route", name="pk_requests"),
    )
    op.create_index("ix_requests_expires_at", "requests", ["expires_at"])
