"""`hs serve`: runs one process, the main one or a worker; writes a first configuration."""

import shlex
import shutil
import sys
from pathlib import Path

import click

from hs.cli.notices import tell_notices
from hs.cli.options import DEFAULT_DATA, config_option, settings_of
from hs.nursery.boot import main as run_to_the_end
from hs.settings.generate import FirstConfig, checked_server_name, write_first_config
from hs.settings.settings import Settings

_FIRST_NAME = "localhost"


@click.command(epilog="Stop it with Ctrl-C or SIGTERM; it finishes the requests it has.")
@config_option
@click.option(
    "--data-dir",
    default=DEFAULT_DATA,
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the configuration lies, and is written on first use, when --config is not given.",
)
@click.option(
    "-H",
    "--server-name",
    envvar="HS_SERVER_NAME",
    help="Name of a new server; 'localhost' when missing, which is good for trials only.",
)
@click.option(
    "--bind",
    "addresses",
    multiple=True,
    envvar="HS_BIND",
    default=["127.0.0.1"],
    help="Address that a new server listens on. [default: 127.0.0.1]",
)
@click.option(
    "--port",
    default=8008,
    show_default=True,
    envvar="HS_PORT",
    type=click.IntRange(1, 65535),
    help="Port of a new server.",
)
def serve(
    configs: tuple[Path, ...],
    data_dir: Path,
    server_name: str | None,
    addresses: tuple[str, ...],
    port: int,
) -> None:
    """Run the server.

    Without --config it looks for homeserver.yaml in the data directory, and writes a first one
    there, with SQLite as database, when there is none.

    A worker is given the shared file first and its own after it:

        hs serve -c homeserver.yaml -c workers/sync1.yaml
    """
    if not configs:
        first = FirstConfig(
            folder=data_dir,
            server_name=checked_server_name(server_name or _FIRST_NAME),
            port=port,
            addresses=addresses,
        )
        configs = (first.path,)
        if not first.path.exists():
            _tell_written(write_first_config(first), first)
    settings = settings_of(configs)
    tell_notices(settings.notices)
    _tell_where(settings, configs)
    sys.exit(run_to_the_end(settings))


def _tell_written(written: list[Path], first: FirstConfig) -> None:
    click.echo(f"A new server, {first.server_name}. Written:", err=True)
    for path in written:
        click.echo(f"  {path}", err=True)
    click.echo(
        "Its name is part of every user ID and can never be changed. To choose another one, stop, "
        f"remove {first.folder} and start with --server-name.\n",
        err=True,
    )


def own_command() -> str:
    """Name this program as a shell finds it."""
    program = Path(sys.argv[0])
    found = shutil.which(program.name)
    if found is not None and program.is_file() and Path(found).samefile(program):
        return program.name
    return shlex.quote(str(program.absolute())) if program.name == "hs" else "hs"


def _tell_where(settings: Settings, configs: tuple[Path, ...]) -> None:
    """Say where the server is, how to get the first account, and where its files are."""
    if not settings.workers.is_main:
        return
    for listener in settings.listeners:
        if "client" in listener.names and listener.port:
            scheme = "https" if listener.tls else "http"
            shown = listener.bind_addresses[-1]
            host = "localhost" if shown in ("127.0.0.1", "0.0.0.0", "::1", "::") else shown
            click.echo(f"Address for clients: {scheme}://{host}:{listener.port}", err=True)
    options = " ".join(f"-c {shlex.quote(str(path))}" for path in configs)
    click.echo(f"First account:       {own_command()} register-user {options} --admin", err=True)
    click.echo(f"Files:               {settings.folder}", err=True)
    click.echo(f"Database:            {settings.database.label}\n", err=True)
