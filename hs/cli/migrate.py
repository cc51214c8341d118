"""`hs migrate`: migrates the database schema, or lists pending migrations."""

from collections.abc import Sequence
from pathlib import Path

import click
import trio

from hs.cli.options import config_option, load_command_settings
from hs.lib.aio import open_bridge
from hs.nursery.exit_causes import cause_of
from hs.settings.sections.database import DatabaseSettings
from hs.storage.connect import DatabaseConfig, open_database
from hs.storage.database import DatabaseError
from hs.storage.migrate import Migration, Phase, bundled_migrations, pending_migrations
from hs.storage.migrate import migrate as apply_migrations


@click.command(
    "migrate",
    epilog="Exit status: 0 on success, 1 if the database fails, 2 if the configuration is wrong.",
)
@config_option
@click.option("--dry-run", is_flag=True, help="Only list pending migrations.")
@click.option(
    "--pre-only",
    is_flag=True,
    help="Apply only migrations with which processes of the previous release can still work.",
)
def migrate(configs: tuple[Path, ...], dry_run: bool, pre_only: bool) -> None:
    """Migrate the database schema to this version.

    The main process does this when it starts. Run the command to migrate before that: for example
    with --pre-only while the previous version is still running, to shorten the interruption.

    \b
        hs migrate -c homeserver.yaml --dry-run
        hs migrate -c homeserver.yaml
    """
    settings = load_command_settings(configs)
    try:
        phases: tuple[Phase, ...] = ("pre",) if pre_only else ("pre", "post")
        migrations = trio.run(_pending if dry_run else _migrate, settings.database, phases)
    except* DatabaseError as errors:
        cause, _ = cause_of(errors)
        raise click.ClickException(f"{settings.database.description}: {cause}") from None
    state = "pending" if dry_run else "applied"
    for migration in migrations:
        click.echo(f"{state}: {migration.number:04} {migration.name}")
    if not migrations:
        click.echo("The schema is up to date.")


async def _pending(database: DatabaseSettings, phases: Sequence[Phase]) -> list[Migration]:
    async with open_bridge() as bridge, open_database(_config(database), bridge) as opened:
        all_pending = await pending_migrations(opened, bundled_migrations())
        return [migration for migration in all_pending if migration.phase in phases]


async def _migrate(database: DatabaseSettings, phases: Sequence[Phase]) -> list[Migration]:
    async with open_bridge() as bridge, open_database(_config(database), bridge) as opened:
        return await apply_migrations(opened, bundled_migrations(), phases)


def _config(database: DatabaseSettings) -> DatabaseConfig:
    args = {"database": str(database.path)} if database.is_sqlite else database.args
    return DatabaseConfig(database.engine, args, instance="migrate")
