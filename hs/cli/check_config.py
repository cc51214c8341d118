"""`hs check-config`: reports what would stop `hs serve`, and starts nothing."""

from pathlib import Path

import click

from hs.cli.notices import print_notices
from hs.cli.options import allow_ineffective_option, config_option, load_command_settings
from hs.nursery.preflight import check_database, check_start
from hs.settings.errors import SettingsError


@click.command("check-config", epilog="Exit status: 0 if the configuration is usable, 2 otherwise.")
@config_option
@click.option("--strict", is_flag=True, help="Treat unknown keys as mistakes.")
@click.option("--online", is_flag=True, help="Connect to the database too.")
@allow_ineffective_option
def check_config(
    configs: tuple[Path, ...], strict: bool, online: bool, allow_ineffective: tuple[str, ...]
) -> None:
    """Check a configuration and report all mistakes, with file, line and remedy.

    It fails where `hs serve` would fail: it reads the signing key, sets up logging, checks media
    folders and templates, opens the addresses of listeners, and builds all services. Nothing is
    started, and no file is left. Run it as the user of the server, with the same files as
    `hs serve`. Warnings and notes do not make a configuration unusable.

    \b
        hs check-config -c homeserver.yaml
        hs check-config -c homeserver.yaml --online
        hs check-config -c homeserver.yaml -c workers/sync1.yaml
    """
    settings = load_command_settings(configs, strict=strict, allow_ineffective=allow_ineffective)
    problems, notices = check_start(settings)
    if online:
        problems += check_database(settings)
    if problems:
        raise settings.locate(SettingsError(problems, [*settings.notices, *notices]))
    print_notices([*settings.notices, *notices])
    workers = settings.workers
    process = "the main process" if workers.is_main else f"the worker {workers.name}"
    listeners = ", ".join(listener.label for listener in settings.opened_listeners) or "nothing"
    click.echo(
        f"The configuration of {settings.server.server_name} is usable: {process}, "
        f"{settings.database.engine}, listening on {listeners}."
    )
