"""`hs rebalance`: shares out at once what the writers of a stream own."""

import secrets
from pathlib import Path

import click
import trio

from hs.cli.options import config_option, load_command_settings
from hs.core.stream_def import StreamWriters
from hs.core.streams import CATALOGUE
from hs.lib.default_tls import default_tls
from hs.nursery.process_base import topology_of
from hs.repl.calls.client import RpcClients
from hs.repl.calls.reply import RpcFailed, RpcUnavailable
from hs.repl.calls.sender import LinkSender
from hs.repl.feed import Feed
from hs.repl.signing_key import replication_secret_of
from hs.repl.slots.moves import SlotMoves
from hs.settings.settings import Settings


@click.command(epilog="Exit status: 0 if all writers were asked, 1 if some were not reached.")
@config_option
def rebalance(configs: tuple[Path, ...]) -> None:
    """Share out rooms evenly among the writers of events, at once.

    The writers do the same by themselves, a few slots every two seconds. Asks each writer at its
    replication listener, with the secret of the configuration, to give away what it has too much.

    \b
        hs rebalance -c homeserver.yaml
    """
    settings = load_command_settings(configs)
    names = writers_of(settings)
    if len(names) < 2:
        raise click.UsageError("stream_writers names one writer only: there is nothing to share")
    if not trio.run(_ask_each, settings, names):
        raise click.exceptions.Exit(1)


def writers_of(settings: Settings) -> list[str]:
    """Return the processes that may hold slots of some stream."""
    writers = settings.workers.writers
    return sorted(
        {
            name
            for stream in CATALOGUE
            if stream.writers is StreamWriters.SHARDED and stream.writer_setting is not None
            for name in writers[stream.writer_setting]
        }
    )


async def _ask_each(settings: Settings, names: list[str]) -> bool:
    sender = LinkSender(
        topology_of(settings.workers).locations,
        replication_secret_of(settings),
        f"rebalance/{secrets.token_hex(12)}",
        default_tls(),
    )
    clients = RpcClients(sender, Feed())
    reached = True
    async with trio.open_nursery() as connections:
        await connections.start(sender.run)
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
        connections.cancel_scope.cancel()
    return reached


def describe(name: str, moved: dict[str, int]) -> str:
    """Return the line about a writer."""
    parts = [f"{count} to {taker}" for taker, count in sorted(moved.items()) if count]
    return f"{name} gave {', '.join(parts)}" if parts else f"{name} has no slots to give"
