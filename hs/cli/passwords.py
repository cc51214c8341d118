"""`hs hash-password`: prints the hash of a password as it is stored in the database."""

import unicodedata
from pathlib import Path

import bcrypt
import click

from hs.cli.options import config_option, load_command_settings

# bcrypt ignores everything beyond 72 bytes.
_BCRYPT_BYTES = 72


@click.command(
    "hash-password",
    epilog="Exit status: 0 on success, 2 if an option or the configuration is wrong.",
)
@click.option("-p", "--password", help="Password; prompted for if missing.")
@click.option(
    "--rounds",
    type=click.IntRange(4, 31),
    help="Cost; each step doubles the time. [default: bcrypt_rounds, or 12]",
)
@config_option
def hash_password(password: str | None, rounds: int | None, configs: tuple[Path, ...]) -> None:
    """Print the bcrypt hash of a password, to store it in the database by hand.

    With --config, the pepper (password_config.pepper) and bcrypt_rounds of that configuration are
    used. A server with a pepper accepts no hash made without it. Without --config, there is no
    pepper.

    \b
        hs hash-password -c homeserver.yaml
    """
    secret = password or click.prompt(
        "Password", hide_input=True, confirmation_prompt=True, err=True
    )
    pepper, cost = "", rounds or 12
    if configs:
        settings = load_command_settings(configs)
        pepper = settings.passwords.pepper
        cost = rounds or settings.registration.bcrypt_rounds
    click.echo(hash_with_bcrypt(secret, pepper, cost))


def hash_with_bcrypt(password: str, pepper: str, rounds: int) -> str:
    """Return the bcrypt hash of a password with the pepper appended."""
    peppered = (unicodedata.normalize("NFKC", password) + pepper).encode()
    return bcrypt.hashpw(peppered[:_BCRYPT_BYTES], bcrypt.gensalt(rounds)).decode("ascii")
