"""`hs register-user`: creates an account on a running server, with the shared secret."""

import hashlib
import hmac
import http.client
import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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


@attrs.frozen
class Server:
    """Where the server is asked. One that is here is not asked to prove who it is."""

    base: str
    is_here: bool

    def tls(self) -> ssl.SSLContext:
        """Give the rules for its certificate, which is never for the address of a listener."""
        context = ssl.create_default_context()
        if self.is_here:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


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
    base = _checked(url or _url_of(settings))
    name = user or click.prompt("User name")
    if password_file is not None:
        password = _password_in(password_file)
    password = password or click.prompt("Password", hide_input=True, confirmation_prompt=True)
    if admin is None:
        admin = click.confirm("Make this user an administrator?", default=False)
    new_user = NewUser(username=name, password=password, is_admin=admin, user_type=user_type)
    try:
        created = _register(Server(base, is_here=url is None), secret, new_user)
    except Refused as error:
        if not (exists_ok and error.errcode == "M_USER_IN_USE"):
            raise
        click.echo(f"The user {name} exists already.")
        return
    click.echo(f"Created {created.get('user_id', name)}.")


def _password_in(file: Path) -> str:
    try:
        password = file.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    except ValueError:
        raise click.UsageError(f"{file} is not UTF-8 text") from None
    if not password:
        raise click.UsageError(f"The first line of {file} is empty; it should be the password.")
    return password


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_usable = False
    if not is_usable:
        raise click.UsageError(f"{url} is not a URL; write it like http://localhost:8008")
    return url.rstrip("/")


def _secret_of(settings: Settings | None) -> str:
    secret = settings.registration.registration_shared_secret if settings else None
    if not secret:
        raise click.UsageError(
            "The configuration has no registration_shared_secret; add one and restart the server."
        )
    return secret


def _url_of(settings: Settings | None) -> str:
    """Where this machine reaches the first listener for clients; one without TLS if possible."""
    listeners = settings.listeners if settings else ()
    for listener in sorted(listeners, key=lambda one: one.tls):
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


def _register(server: Server, secret: str, user: NewUser) -> dict[str, Any]:
    nonce = _call(server, None).get("nonce")
    if not isinstance(nonce, str):
        raise _stranger(server.base)
    body: dict[str, Any] = {
        "nonce": nonce,
        "username": user.username,
        "password": user.password,
        "admin": user.is_admin,
        "mac": mac_of(secret, nonce, user),
    }
    if user.user_type:
        body["user_type"] = user.user_type
    return _call(server, body)


def _call(server: Server, body: dict[str, Any] | None) -> dict[str, Any]:
    base = server.base
    encoded = None if body is None else json.dumps(body).encode()
    try:
        request = urllib.request.Request(
            base + _PATH, data=encoded, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=server.tls()) as answer:
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
    except http.client.HTTPException:
        raise _stranger(base) from None
    except OSError as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise click.ClickException(
            f"Cannot reach {base}: {reason}. Is the server running?"
        ) from None


def _object(text: bytes, base: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise _stranger(base)
    return value


def _stranger(base: str) -> click.ClickException:
    return click.ClickException(f"{base} does not answer like a Matrix server")
