"""`hs migrate`: brings the database's schema up to date, or shows what is lacking."""

from collections.abc import Sequence
from pathlib import Path

import click
import trio

from hs.cli.options import config_option, settings_of
from hs.lib.aio import open_bridge
from hs.nursery.exit_causes import cause_of
from hs.settings.sections.database import DatabaseSettings
from hs.storage.connect import DatabaseConfig, open_database
from hs.storage.database import DatabaseError
from hs.storage.migrate import Migration, Phase, bundled_migrations, pending
from hs.storage.migrate import migrate as apply_migrations


@click.command("migrate")
@config_option
@click.option("--dry-run", is_flag=True, help="Only list what is lacking.")
@click.option(
    "--pre-only",
    is_flag=True,
    help="Leave out what processes of the last release could not work with.",
)
def migrate(configs: tuple[Path, ...], dry_run: bool, pre_only: bool) -> None:
    """Bring the database's schema up to date.

    The main process does this by itself when it starts; the command is for doing it before.
    """
    settings = settings_of(configs)
    try:
        phases: tuple[Phase, ...] = ("pre",) if pre_only else ("pre", "post")
        found = trio.run(_pending if dry_run else _migrate, settings.database, phases)
    except* DatabaseError as errors:
        cause, _ = cause_of(errors)
        raise click.ClickException(f"{settings.database.place}: {cause}") from None
    word = "lacking" if dry_run else "applied"
    for migration in found:
        click.echo(f"{word}: {migration.number:04} {migration.name}")
    if not found:
        click.echo("The schema is up to date.")


async def _pending(database: DatabaseSettings, phases: Sequence[Phase]) -> list[Migration]:
    async with open_bridge() as bridge, open_database(_config(database), bridge) as opened:
        lacking = await pending(opened, bundled_migrations())
        return [migration for migration in lacking if migration.phase in phases]


async def _migrate(database: DatabaseSettings, phases: Sequence[Phase]) -> list[Migration]:
    async with open_bridge() as bridge, open_database(_config(database), bridge) as opened:
        return await apply_migrations(opened, bundled_migrations(), phases)


def _config(database: DatabaseSettings) -> DatabaseConfig:
    args = {"database": str(database.path)} if database.is_sqlite else database.args
    return DatabaseConfig(database.engine, args, instance="migrate")
