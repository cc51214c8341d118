"""`hs generate-config`: writes an initial configuration."""

from pathlib import Path

import click

from hs.cli.options import DEFAULT_DATA
from hs.settings.generate import InitialConfig, parse_new_server_name, write_initial_config


@click.command(
    "generate-config",
    epilog="Exit status: 0 on success, 1 if a file cannot be written, 2 if an option is wrong.",
)
@click.option(
    "-H",
    "--server-name",
    required=True,
    help="Name of the server, as in @alice:NAME. It cannot be changed later.",
)
@click.option(
    "--data-dir",
    default=DEFAULT_DATA,
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory of the configuration, the signing key and the database.",
)
@click.option(
    "--port",
    default=8008,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Port to listen on.",
)
@click.option(
    "--bind",
    "addresses",
    multiple=True,
    default=["127.0.0.1"],
    show_default=True,
    help="IP address to listen on; may be repeated.",
)
def generate_config(
    server_name: str, data_dir: Path, port: int, addresses: tuple[str, ...]
) -> None:
    """Write an initial configuration: homeserver.yaml, a signing key and a log configuration.

    Secrets are random. Existing files are not changed, so the command may be repeated. Keep a
    backup of the signing key: other servers identify yours by it.

    \b
        hs generate-config --server-name example.org
        hs generate-config --server-name example.org --data-dir /var/lib/hs --bind 0.0.0.0
    """
    config = InitialConfig(
        folder=data_dir,
        server_name=parse_new_server_name(server_name),
        port=port,
        addresses=addresses,
    )
    written = write_initial_config(config)
    for path in written:
        click.echo(f"wrote {path}")
    if config.path not in written:
        click.echo(f"{config.path} exists already and was not changed")
    click.echo(f"\nTo run the server: hs serve --config {config.path}")
