"""Bringing a database up to this program's schema when it is opened.

Owns the decision (new, current, older, newer) and the backup that is made before an older one is changed. The steps
themselves are in `migrations`. Invariants: a database that a newer program has written is not touched; an upgrade is
one transaction; before it, the database as it was lies beside it under a name that says so.
"""

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, inspect, text

from backend.durable import sync_path
from backend.metadata import errors

MIGRATIONS = "backend.metadata:migrations"
NEWEST = "0017"
"""The last step of these."""


def bring_up(engine: Engine, path: Path) -> None:
    """Bring the database at `path`, opened by `engine`, to this schema, if it is not there; durable on return.

    Raises:
        NewerSchema: nothing was changed.
    """
    with engine.begin() as connection:
        present = present_schema(connection)
    if present != NEWEST:
        upgrade(engine, path)


def upgrade(engine: Engine, path: Path, migrations: str = MIGRATIONS) -> None:
    """Bring the database at `path`, opened by `engine`, to the newest schema of `migrations`; durable on return.

    Raises:
        NewerSchema: nothing was changed.
    """
    # Here, since a server that starts, and each command of it, need them only after a new version was installed.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config(attributes={})
    config.set_main_option("script_location", migrations)
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    newest = scripts.get_current_head()
    with engine.begin() as connection:
        present = present_schema(connection)
    if present == newest:
        return
    if present is not None:
        if present not in {script.revision for script in scripts.walk_revisions()}:
            raise errors.NewerSchema(
                f"The database {path} has the schema {present}, which this drivefs-server does not know: a newer one "
                "wrote it. Nothing was changed; start the newer drivefs-server."
            )
        _back_up(engine, path, path.with_name(f"{path.name}.before-{newest}"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def present_schema(connection: Connection) -> str | None:
    """The name of the last step that the database has been through."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _back_up(engine: Engine, path: Path, copy: Path) -> None:
    """Make a whole copy beside the database; one left by an upgrade that failed is replaced."""
    partial = copy.with_name(copy.name + ".partial")
    partial.unlink(missing_ok=True)
    raw: Any = engine.raw_connection()
    try:
        raw.driver_connection.execute("VACUUM INTO ?", (str(partial),))
    finally:
        raw.close()
    sync_path(partial)
    partial.replace(copy)
    sync_path(path.parent)
