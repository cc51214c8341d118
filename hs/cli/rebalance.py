"""`hs rebalance`: shares out at once what the writers of a stream own."""

from pathlib import Path

import click
import trio

from hs.cli.options import config_option
from hs.cli.server_processes import load_server_settings, running_server_option
from hs.nursery.process_base import slot_holders
from hs.nursery.running_processes import open_clients
from hs.repl.calls.reply import RpcFailed, RpcUnavailable
from hs.repl.slots.moves import SlotMoves
from hs.settings.settings import Settings


@click.command(epilog="Exit status: 0 if all writers were asked, 1 if some were not reached.")
@config_option
@running_server_option
def rebalance(configs: tuple[Path, ...], data_dir: Path | None) -> None:
    """Share out rooms and users evenly among the writers of each stream, at once.

    The writers do the same by themselves, a few slots every two seconds. Asks each writer at its
    replication listener, with the secret of the configuration, to give away what it has too much.

    \b
        hs rebalance -c homeserver.yaml
    """
    settings = load_server_settings(configs, data_dir)
    names = writers_of(settings)
    if len(names) < 2:
        raise click.UsageError("no stream has several writers: there is nothing to share")
    if not trio.run(_ask_each, settings, names):
        raise click.exceptions.Exit(1)


def writers_of(settings: Settings) -> list[str]:
    """Return the processes that may hold slots of some stream."""
    return sorted(slot_holders(settings.workers))


async def _ask_each(settings: Settings, names: list[str]) -> bool:
    reached = True
    async with open_clients(settings) as clients:
        for name in names:
            try:
                moved = await clients.proxy(SlotMoves, name).rebalance()
            except RpcUnavailable as error:
                reached = False
                click.secho(f"{name} is not reached: {error.cause}", fg="red")
            except RpcFailed as error:
                reached = False
                click.secho(f"{name}: {error}", fg="red")
            else:
                click.echo(describe(name, moved))
    return reached


def describe(name: str, moved: dict[str, int]) -> str:
    """Return the line about a writer."""
    parts = [f"{count} to {taker}" for taker, count in sorted(moved.items()) if count]
    return f"{name} gave {', '.join(parts)}" if parts else f"{name} has no slots to give"
