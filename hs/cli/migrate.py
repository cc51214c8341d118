"""`hs migrate`: migrates the database schema, or lists pending migrations."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import click
import trio

from hs.cli.options import config_option, load_command_settings
from hs.lib.aio import open_bridge
from hs.nursery.exit_causes import cause_of
from hs.settings.errors import EXIT_BAD_CONFIG
from hs.settings.sections.database import DatabaseSettings
from hs.storage.connect import DatabaseConfig, check_pending, open_database
from hs.storage.database import DatabaseError, ForeignDatabase
from hs.storage.migrate import Migration, Phase, bundled_migrations
from hs.storage.migrate import migrate as apply_migrations


class _ForeignDatabaseFailure(click.ClickException):
    exit_code = EXIT_BAD_CONFIG


@click.command(
    "migrate",
    epilog="Exit status: 0 on success, 1 if the database fails, 2 if the configuration is wrong, "
    "or if the database belongs to Synapse or to a newer version of hs.",
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
        is_wrong = errors.subgroup(ForeignDatabase) is not None
        failure = _ForeignDatabaseFailure if is_wrong else click.ClickException
        raise failure(f"{settings.database.description}: {cause}") from None
    state = "pending" if dry_run else "applied"
    for migration in migrations:
        click.echo(f"{state}: {migration.number:04} {migration.name}")
    if not migrations:
        click.echo("The schema is up to date.")


async def _pending(database: DatabaseSettings, phases: Sequence[Phase]) -> list[Migration]:
    async with open_bridge() as bridge:
        pending = await check_pending(_config(database), bridge)
    # The first migration of another phase holds up the later ones.
    return list(itertools.takewhile(lambda migration: migration.phase in phases, pending))


async def _migrate(database: DatabaseSettings, phases: Sequence[Phase]) -> list[Migration]:
    async with open_bridge() as bridge, open_database(_config(database), bridge) as opened:
        return await apply_migrations(opened, bundled_migrations(), phases)


def _config(database: DatabaseSettings) -> DatabaseConfig:
    args = {"database": str(database.path)} if database.is_sqlite else database.args
    return DatabaseConfig(database.engine, args, instance="migrate")
