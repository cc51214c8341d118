"""`hs serve`: runs one process, the main process or a worker."""

import shlex
import shutil
import sys
from pathlib import Path

import click

from hs.cli.notices import print_notices
from hs.cli.options import (
    DEFAULT_DATA,
    allow_ineffective_option,
    config_option,
    load_command_settings,
)
from hs.nursery.boot import main as run_server
from hs.settings.generate import (
    InitialConfig,
    parse_new_server_name,
    write_initial_config,
    write_secrets,
)
from hs.settings.settings import Settings

_DEFAULT_NAME = "localhost"


@click.command(
    epilog="Ctrl-C or SIGTERM stops the process after it has finished the running requests. "
    "Exit status: 0 if it was stopped, 1 if it failed, 2 if the configuration is wrong, or if the "
    "database belongs to Synapse or to a newer version of hs."
)
@config_option
@click.option(
    "--data-dir",
    default=DEFAULT_DATA,
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory of homeserver.yaml if --config is not given; created on first use.",
)
@click.option(
    "-H",
    "--server-name",
    envvar="HS_SERVER_NAME",
    help="Name of a new server; 'localhost' if missing, which is suitable for trials only.",
)
@click.option(
    "--bind",
    "addresses",
    multiple=True,
    envvar="HS_BIND",
    default=["127.0.0.1"],
    help="IP address on which a new server listens; may be repeated. [default: 127.0.0.1]",
)
@click.option(
    "--port",
    default=8008,
    show_default=True,
    envvar="HS_PORT",
    type=click.IntRange(1, 65535),
    help="Port on which a new server listens.",
)
@allow_ineffective_option
def serve(
    configs: tuple[Path, ...],
    data_dir: Path,
    server_name: str | None,
    addresses: tuple[str, ...],
    port: int,
    allow_ineffective: tuple[str, ...],
) -> None:
    """Run the server, or one of its workers.

    Without --config, the configuration is homeserver.yaml in the data directory. If it does not
    exist, an initial one is written there, with SQLite as the database.

    A worker gets the shared file first, then its own file:

    \b
        hs serve
        hs serve -c homeserver.yaml
        hs serve -c homeserver.yaml -c workers/sync1.yaml
    """
    if not configs:
        first = InitialConfig(
            folder=data_dir,
            server_name=parse_new_server_name(server_name or _DEFAULT_NAME),
            port=port,
            addresses=addresses,
        )
        configs = (first.path,)
        if not first.path.exists():
            _print_written(write_initial_config(first), first)
    settings = load_command_settings(configs, allow_ineffective=allow_ineffective)
    print_notices(settings.notices)
    if new_secrets := [notice.new_secret for notice in settings.notices if notice.new_secret]:
        write_secrets(new_secrets)
        settings = load_command_settings(configs, allow_ineffective=allow_ineffective)
    _print_addresses(settings, configs)
    sys.exit(run_server(settings))


def _print_written(written: list[Path], first: InitialConfig) -> None:
    click.echo(f"Created a new server, {first.server_name}:", err=True)
    for path in written:
        click.echo(f"  {path}", err=True)
    click.echo(
        "The name is part of every user ID and cannot be changed later. To choose another name, "
        f"stop the server, delete {first.folder}, and start it with --server-name.\n",
        err=True,
    )


def command_name() -> str:
    """Return the command that starts this program in a shell."""
    program = Path(sys.argv[0])
    on_path = shutil.which(program.name)
    if on_path is not None and program.is_file() and Path(on_path).samefile(program):
        return program.name
    return shlex.quote(str(program.absolute())) if program.name == "hs" else "hs"


def _print_addresses(settings: Settings, configs: tuple[Path, ...]) -> None:
    """Print the address for clients, how to create the first account, and where the files are."""
    if not settings.workers.is_main:
        return
    for listener in settings.listeners:
        if "client" in listener.names and listener.port:
            scheme = "https" if listener.tls else "http"
            address = listener.bind_addresses[-1]
            host = "localhost" if address in ("127.0.0.1", "0.0.0.0", "::1", "::") else address
            click.echo(f"Address for clients: {scheme}://{host}:{listener.port}", err=True)
    options = " ".join(f"-c {shlex.quote(str(path))}" for path in configs)
    click.echo(f"First account:       {command_name()} register-user {options} --admin", err=True)
    click.echo(f"Files:               {settings.folder}", err=True)
    click.echo(f"Database:            {settings.database.label}\n", err=True)
