"""`hs federation-check`: explains how another server is reached, and how others see this one."""

from pathlib import Path

import click
import trio

from hs.cli.options import STEP_MARKS, config_option, load_command_settings
from hs.core.errors import InvalidParam
from hs.core.ids import ServerName, parse_server_name
from hs.core.signing.keys import Signer
from hs.lib.aio import open_bridge
from hs.lib.clock import SystemClock
from hs.nursery.wiring.federation.peers import build_peer_network
from hs.repl.signing_key import signing_key_of
from hs.services.federation_client.peer_check import PeerCheck
from hs.settings.settings import Settings


@click.command(
    "federation-check",
    epilog="Exit status: 0 if every step succeeded, 1 if one failed, 2 if the configuration is "
    "wrong.",
)
@config_option
@click.argument("name", required=False)
def federation_check(configs: tuple[Path, ...], name: str | None) -> None:
    """Check how the server NAME is reached, or this one without NAME.

    The steps are those before each request to another server: well-known file, SRV records, TLS,
    keys. The clocks are compared, and a signed request shows whether the other server can get the
    keys of this one. Run it on the host of this server, while it is running.

    \b
        hs federation-check -c homeserver.yaml
        hs federation-check -c homeserver.yaml matrix.org
    """
    settings = load_command_settings(configs)
    try:
        server = parse_server_name(name or settings.server.server_name)
    except InvalidParam as error:
        raise click.UsageError(f"{name}: {error.message}") from None
    if not trio.run(_check, settings, server):
        raise click.exceptions.Exit(1)


async def _check(settings: Settings, server: ServerName) -> bool:
    """Print the steps; return whether none failed."""
    names = settings.federation.federation_domain_whitelist
    own_name, clock = settings.server.server_name, SystemClock()
    is_good = True
    async with open_bridge() as bridge:
        network = build_peer_network(settings, bridge, clock)
        check = PeerCheck(
            Signer(own_name, signing_key_of(settings)),
            network.delegations,
            network.transport,
            clock,
            None if names is None else frozenset((*names, own_name)),
        )
        async with trio.open_nursery() as nursery:
            for _, runner in network.part.runners:
                await nursery.start(runner)
            click.echo(f"Checking {server}, as {own_name} reaches it:")
            async for step in check.steps(server):
                mark, color = STEP_MARKS[step.is_good]
                click.echo(f"  {click.style(f'{mark:6}', fg=color)} {step.subject}: {step.finding}")
                is_good = is_good and step.is_good is not False
            nursery.cancel_scope.cancel()
    return is_good
