"""`hs reference` and `hs version`: commands that need no configuration."""

import platform
from pathlib import Path

import click

from hs import __version__
from hs.cli import command_reference
from hs.settings.reference import json_schema_text, markdown


@click.command(epilog="Exit status: 0 on success, 1 if a file cannot be written.")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
def reference(folder: Path) -> None:
    """Write the generated pages of the documentation into FOLDER.

    They are configuration.md and configuration.schema.json (all settings), and command-line.md
    (all commands). Editors complete and check homeserver.yaml with the schema.

    \b
        hs reference docs
    """
    for name, text in (
        ("configuration.md", markdown()),
        ("configuration.schema.json", json_schema_text()),
        ("command-line.md", command_reference.markdown()),
    ):
        (folder / name).write_text(text, encoding="utf-8")
        click.echo(f"wrote {folder / name}")


@click.command(epilog="Exit status: 0.")
def version() -> None:
    """Print the versions of hs and Python.

    \b
        hs version
    """
    click.echo(f"hs {__version__} on Python {platform.python_version()}")
