"""Telling what an administrator should know of a configuration, besides mistakes."""

from collections.abc import Iterable

import click

from hs.settings.errors import Notice


def tell_notices(notices: Iterable[Notice]) -> None:
    """Write warnings and notes to standard error."""
    for notice in notices:
        label = click.style("warning", fg="yellow") if notice.is_warning else "note"
        click.echo(f"{label}: {notice}", err=True)
