"""`hs plan` and `hs routes`: what a process would do, and what it answers."""

from pathlib import Path

import click

from hs.cli.options import config_option, settings_of, tell_notices
from hs.nursery.plan import plan_of, tree_of


@click.command()
@config_option
def plan(configs: tuple[Path, ...]) -> None:
    """Show what a process would do, and start nothing.

    It prints the nest of nurseries, outermost first: database, replication, duties, listeners.

        hs plan -c homeserver.yaml -c workers/sync1.yaml
    """
    settings = settings_of(configs)
    tell_notices(settings.notices)
    click.echo(tree_of(plan_of(settings), settings))
