"""`hs proxy-config`: writes the configuration of a reverse proxy for all processes."""

from pathlib import Path

import attrs
import click

from hs.cli.server_processes import (
    config_option,
    data_dir_option,
    data_folder_of,
    finder,
    run_folder,
    shape_options,
)
from hs.nursery.proxies.caddy import caddy_config
from hs.nursery.proxies.haproxy import haproxy_config
from hs.nursery.proxies.nginx import nginx_config
from hs.nursery.proxies.proxy_plan import Affinity, plan_proxy
from hs.nursery.proxies.traefik import traefik_config
from hs.nursery.supervision.process_files import ProcessFiles, load_all
from hs.settings.generate import CONFIG_NAME
from hs.settings.ineffective import RESTRICTING_KEYS

_WRITERS = {
    "nginx": nginx_config,
    "haproxy": haproxy_config,
    "caddy": caddy_config,
    "traefik": traefik_config,
}


@click.command("proxy-config", epilog="Exit status: 0, or 2 if the configuration is wrong.")
@click.argument("program", type=click.Choice(list(_WRITERS)))
@config_option
@shape_options
@data_dir_option
@click.option("--host", help="Host name of clients' requests. [default: server_name]")
@click.option(
    "--initial-sync",
    metavar="PROCESS,…",
    default="",
    help="Processes for first syncs only, which cost much more than later ones.",
)
@click.option(
    "--by-room",
    is_flag=True,
    help="Choose the process for requests about a room by the room, not by the access token.",
)
@click.option(
    "--login",
    metavar="PROCESS,…",
    default="",
    help="Processes for registration and log-in only.",
)
@click.option(
    "--appservices",
    metavar="PROCESS,…",
    default="",
    help="Processes for application services only. Their tokens are part of what is printed.",
)
def proxy_config(
    program: str,
    config: Path | None,
    shape: str | None,
    first_port: int,
    data_dir: Path | None,
    host: str | None,
    initial_sync: str,
    login: str,
    appservices: str,
    by_room: bool,
) -> None:
    """Print the configuration of a reverse proxy for the processes of a server.

    Requests of one client go to one process, by its access token, so that caches are used; media go
    to the processes that serve them; what writes a stream goes to its writer, if that serves
    clients. Certificates and their paths are yours to complete. The admin API (/_synapse/admin) is
    not forwarded.

    \b
        hs proxy-config nginx --config /etc/hs > /etc/nginx/conf.d/matrix.conf
        hs proxy-config haproxy -c homeserver.yaml --workers event_persister:2,sync:3 \\
            --initial-sync sync3
    """
    folder = data_folder_of(config, data_dir)
    find = finder(config or folder / CONFIG_NAME, shape, first_port, run_folder(folder))
    settings = load_all([_with_private_servers(process) for process in find()], RESTRICTING_KEYS)
    of_rooms = Affinity.ROOM if by_room else Affinity.CLIENT
    plan = plan_proxy(settings, _names(initial_sync), _names(login), of_rooms, _names(appservices))
    if host:
        plan = attrs.evolve(plan, host=host)
    click.echo(_WRITERS[program](plan))


def _with_private_servers(process: ProcessFiles) -> ProcessFiles:
    """Return a process that has the Redis and PostgreSQL that `hs supervise` may start."""
    database = {"name": "psycopg2", "args": {"database": "hs"}}
    servers = {"redis": {"enabled": True}, "database": database}
    return attrs.evolve(process, overlay={**servers, **process.overlay})


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (name.strip() for name in text.split(","))))
