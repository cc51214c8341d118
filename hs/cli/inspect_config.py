"""`hs check-config`, `hs reference` and `hs version`: looking without starting anything."""

import platform
from pathlib import Path

import click

from hs import __version__
from hs.cli import command_reference
from hs.cli.notices import tell_notices
from hs.cli.options import config_option, settings_of
from hs.repl.signing_key import signing_key_of
from hs.settings.errors import SettingsError
from hs.settings.reference import json_schema_text, markdown
from hs.settings.settings import Settings


@click.command("check-config", epilog="Exit code: 0 usable, 2 not usable.")
@config_option
@click.option("--strict", is_flag=True, help="Take unknown keys for mistakes.")
def check_config(configs: tuple[Path, ...], strict: bool) -> None:
    """Read the configuration, tell every mistake in it, start nothing.

    For a worker give the same files as to `hs serve`:

        hs check-config -c homeserver.yaml -c workers/sync1.yaml
    """
    settings = settings_of(configs, strict=strict)
    tell_notices(settings.notices)
    _tell_lack_of_key(settings)
    workers = settings.workers
    who = "the main process" if workers.is_main else f"the worker {workers.name}"
    listeners = ", ".join(listener.label for listener in settings.listeners) or "nothing"
    click.echo(
        f"The configuration of {settings.server.server_name} is usable: {who}, "
        f"{settings.database.engine}, listening on {listeners}."
    )


def _tell_lack_of_key(settings: Settings) -> None:
    """Warn only: where a configuration is checked, its key need not be."""
    try:
        signing_key_of(settings)
    except SettingsError as error:
        for problem in error.problems:
            click.echo(f"{click.style('warning', fg='yellow')}: {problem}", err=True)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
def reference(folder: Path) -> None:
    """Write the generated pages of the documentation into FOLDER.

    They are configuration.md and configuration.schema.json (all settings), and command-line.md
    (all commands).
    """
    for name, text in (
        ("configuration.md", markdown()),
        ("configuration.schema.json", json_schema_text()),
        ("command-line.md", command_reference.markdown()),
    ):
        (folder / name).write_text(text, encoding="utf-8")
        click.echo(f"wrote {folder / name}")


@click.command()
def version() -> None:
    """Tell the version of hs and of Python."""
    click.echo(f"hs {__version__} on Python {platform.python_version()}")
