"""Prints the warnings and notes of a configuration."""

from collections.abc import Iterable

import click

from hs.settings.errors import Notice


def print_notices(notices: Iterable[Notice]) -> None:
    """Print warnings and notes to standard error."""
    for notice in notices:
        label = click.style("warning", fg="yellow") if notice.is_warning else "note"
        click.echo(f"{label}: {notice}", err=True)
