"""`hs hash-password`: a password's hash as the database keeps it."""

import unicodedata
from pathlib import Path

import bcrypt
import click

from hs.cli.options import config_option, settings_of

# bcrypt looks at no more than this.
_BCRYPT_BYTES = 72


@click.command("hash-password")
@click.option("-p", "--password", help="The password; asked for when missing.")
@click.option("--rounds", type=click.IntRange(4, 31), help="Cost; each step doubles it.")
@config_option
def hash_password(password: str | None, rounds: int | None, configs: tuple[Path, ...]) -> None:
    """Hash a password with bcrypt, to put it into the database by hand.

    With --config, that file's pepper (password_config.pepper) and bcrypt_rounds are used, as they
    must be for a password of that server.
    """
    secret = password or click.prompt(
        "Password", hide_input=True, confirmation_prompt=True, err=True
    )
    pepper, cost = "", rounds or 12
    if configs:
        settings = settings_of(configs)
        pepper = settings.passwords.pepper
        cost = rounds or settings.registration.bcrypt_rounds
    click.echo(hashed(secret, pepper, cost))


def hashed(password: str, pepper: str, rounds: int) -> str:
    """Hash a password with bcrypt."""
    peppered = (unicodedata.normalize("NFKC", password) + pepper).encode()
    return bcrypt.hashpw(peppered[:_BCRYPT_BYTES], bcrypt.gensalt(rounds)).decode("ascii")
