"""`hs register-user`: creates an account on a running server, with the shared secret."""

import hashlib
import hmac
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import attrs
import click

from hs.cli.options import config_option, settings_of
from hs.settings.settings import Settings

_PATH = "/_synapse/admin/v1/register"
_TIMEOUT_S = 30


@attrs.frozen(kw_only=True)
class NewUser:
    """The account to create."""

    username: str
    password: str
    is_admin: bool
    user_type: str | None = None


class Refused(click.ClickException):
    """The server said no; `errcode` tells why."""

    def __init__(self, errcode: str, message: str) -> None:
        super().__init__(f"The server refused: {message} ({errcode})")
        self.errcode = errcode


@click.command("register-user")
@click.argument("url", required=False)
@click.option("-u", "--user", help="Local part of the user ID; asked for when missing.")
@click.option("-p", "--password", help="The password; asked for when missing.")
@click.option(
    "--password-file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A file whose first line is the password.",
)
@click.option("-a/-A", "--admin/--no-admin", default=None, help="Whether to be administrator.")
@click.option("-t", "--user-type", help="Kind of user, such as bot or support.")
@click.option("--exists-ok", is_flag=True, help="Succeed when the user is there already.")
@click.option("-k", "--shared-secret", help="The secret, instead of --config.")
@config_option
def register_user(
    url: str | None,
    user: str | None,
    password: str | None,
    password_file: Path | None,
    admin: bool | None,
    user_type: str | None,
    exists_ok: bool,
    shared_secret: str | None,
    configs: tuple[Path, ...],
) -> None:
    """Create an account on a running server.

    URL is where the server listens; without it, the first listener of the configuration is used.
    The secret is registration_shared_secret of the same file.

        hs register-user -u alice --admin
    """
    settings = None if shared_secret and url else settings_of(configs)
    secret = shared_secret or _secret_of(settings)
    base = (url or _url_of(settings)).rstrip("/")
    name = user or click.prompt("User name")
    if password_file is not None:
        password = password_file.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    password = password or click.prompt("Password", hide_input=True, confirmation_prompt=True)
    if admin is None:
        admin = click.confirm("Make this user an administrator?", default=False)
    new_user = NewUser(username=name, password=password, is_admin=admin, user_type=user_type)
    try:
        created = _register(base, secret, new_user)
    except Refused as error:
        if not (exists_ok and error.errcode == "M_USER_IN_USE"):
            raise
        click.echo(f"The user {name} exists already.")
        return
    click.echo(f"Created {created.get('user_id', name)}.")


def _secret_of(settings: Settings | None) -> str:
    secret = settings.registration.registration_shared_secret if settings else None
    if not secret:
        raise click.UsageError(
            "The configuration has no registration_shared_secret; add one and restart the server."
        )
    return secret


def _url_of(settings: Settings | None) -> str:
    """Where this machine reaches the first listener for clients."""
    for listener in settings.listeners if settings else ():
        if "client" in listener.names and listener.port:
            address = listener.bind_addresses[0]
            host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(address, address)
            if "0.0.0.0" in listener.bind_addresses:
                host = "127.0.0.1"
            elif ":" in host and not host.startswith("["):
                host = f"[{host}]"
            return f"{'https' if listener.tls else 'http'}://{host}:{listener.port}"
    raise click.UsageError("The configuration has no listener for clients; give the URL.")


def mac_of(secret: str, nonce: str, user: NewUser) -> str:
    """The proof of knowing the secret."""
    parts = [nonce, user.username, user.password, "admin" if user.is_admin else "notadmin"]
    if user.user_type:
        parts.append(user.user_type)
    return hmac.new(secret.encode(), "\0".join(parts).encode(), hashlib.sha1).hexdigest()


def _register(base: str, secret: str, user: NewUser) -> dict[str, Any]:
    nonce = str(_call(base, None)["nonce"])
    body: dict[str, Any] = {
        "nonce": nonce,
        "username": user.username,
        "password": user.password,
        "admin": user.is_admin,
        "mac": mac_of(secret, nonce, user),
    }
    if user.user_type:
        body["user_type"] = user.user_type
    return _call(base, body)


def _call(base: str, body: dict[str, Any] | None) -> dict[str, Any]:
    encoded = None if body is None else json.dumps(body).encode()
    try:
        request = urllib.request.Request(
            base + _PATH, data=encoded, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            return _object(answer.read(), base)
    except urllib.error.HTTPError as error:
        with error:
            told = _object(error.read(), base)
        raise Refused(
            str(told.get("errcode", error.code)), str(told.get("error", error.reason))
        ) from None
    except ValueError:
        raise click.UsageError(
            f"{base} is not a URL; write it like http://localhost:8008"
        ) from None
    except OSError as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise click.ClickException(
            f"Cannot reach {base}: {reason}. Is the server running?"
        ) from None


def _object(text: bytes, base: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise click.ClickException(f"{base} does not answer like a Matrix server")
    return value
