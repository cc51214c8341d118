"""`hs generate-config`: the smallest configuration that works."""

from pathlib import Path

import click

from hs.cli.options import DEFAULT_DATA
from hs.settings.generate import FirstConfig, checked_server_name, write_first_config


@click.command("generate-config")
@click.option(
    "-H",
    "--server-name",
    required=True,
    help="The name in every user ID, as in @you:NAME. It can never be changed.",
)
@click.option(
    "--data-dir",
    default=DEFAULT_DATA,
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where configuration, key and database lie.",
)
@click.option("--port", default=8008, show_default=True, type=click.IntRange(1, 65535))
@click.option(
    "--bind",
    "addresses",
    multiple=True,
    default=["127.0.0.1"],
    show_default=True,
    help="An address to listen on; repeat it for more.",
)
def generate_config(
    server_name: str, data_dir: Path, port: int, addresses: tuple[str, ...]
) -> None:
    """Write homeserver.yaml, a signing key and a log configuration.

    Secrets are made at random. Files that exist already are left as they are, so this is safe to
    repeat. Keep a copy of the signing key: other servers know yours by it.
    """
    config = FirstConfig(
        folder=data_dir,
        server_name=checked_server_name(server_name),
        port=port,
        addresses=addresses,
    )
    written = write_first_config(config)
    for path in written:
        click.echo(f"wrote {path}")
    if config.path not in written:
        click.echo(f"{config.path} exists already and was left as it is")
    click.echo(f"\nNext: hs serve --config {config.path}")
