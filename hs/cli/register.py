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

from hs.cli.options import config_option, load_command_settings
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
    """The server to ask; the certificate of one on this machine is not verified."""

    base: str
    is_local: bool

    def tls(self) -> ssl.SSLContext:
        """Return the TLS context; no certificate is issued for the address of a local listener."""
        context = ssl.create_default_context()
        if self.is_local:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class RegistrationRefused(click.ClickException):
    """The server refused the registration, with a Matrix errcode."""

    def __init__(self, errcode: str, message: str) -> None:
        super().__init__(f"The server refused: {message} ({errcode})")
        self.errcode = errcode


@click.command(
    "register-user",
    epilog="Exit status: 0 if the account was created (or exists, with --exists-ok), 1 if the "
    "server refused or cannot be reached, 2 if an option or the configuration is wrong.",
)
@click.argument("url", required=False)
@click.option("-u", "--user", help="Local part of the user ID; prompted for if missing.")
@click.option("-p", "--password", help="Password; prompted for if missing.")
@click.option(
    "--password-file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="File whose first line is the password.",
)
@click.option(
    "-a/-A",
    "--admin/--no-admin",
    default=None,
    help="Whether the user is a server administrator; prompted for if missing.",
)
@click.option("-t", "--user-type", help="User type: bot or support.")
@click.option("--exists-ok", is_flag=True, help="Succeed if the user exists already.")
@click.option("-k", "--shared-secret", help="Shared secret, instead of reading it from --config.")
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

    The account is authorized by registration_shared_secret, which is read from the configuration.
    URL is the address of the server; by default the first client listener of the configuration.

    \b
        hs register-user -u alice --admin
        hs register-user -u bot --no-admin --password-file bot.pw https://matrix.example.org
    """
    settings = None if shared_secret and url else load_command_settings(configs)
    secret = shared_secret or _secret_from(settings)
    base = _checked_url(url or _url_from(settings))
    name = user or click.prompt("User name")
    if password_file is not None:
        password = _password_in(password_file)
    password = password or click.prompt("Password", hide_input=True, confirmation_prompt=True)
    if admin is None:
        admin = click.confirm("Make this user an administrator?", default=False)
    new_user = NewUser(username=name, password=password, is_admin=admin, user_type=user_type)
    try:
        created = _register(Server(base, is_local=url is None), secret, new_user)
    except RegistrationRefused as error:
        if not (exists_ok and error.errcode == "M_USER_IN_USE"):
            raise
        click.echo(f"User {name} exists already.")
        return
    click.echo(f"Created {created.get('user_id', name)}.")


def _password_in(file: Path) -> str:
    try:
        password = file.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    except ValueError:
        raise click.UsageError(f"{file} is not encoded as UTF-8") from None
    if not password:
        raise click.UsageError(f"The first line of {file} is empty; it must be the password.")
    return password


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_usable = False
    if not is_usable:
        raise click.UsageError(
            f"{url} is not an http or https URL; write it like http://localhost:8008"
        )
    return url.rstrip("/")


def _secret_from(settings: Settings | None) -> str:
    secret = settings.registration.registration_shared_secret if settings else None
    if not secret:
        raise click.UsageError(
            "The configuration has no registration_shared_secret. Add one and restart the server."
        )
    return secret


def _url_from(settings: Settings | None) -> str:
    """Return the local URL of the first client listener, preferably one without TLS."""
    listeners = settings.listeners if settings else ()
    for listener in sorted(listeners, key=lambda listener: listener.tls):
        if "client" in listener.names and listener.port:
            address = listener.bind_addresses[0]
            host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(address, address)
            if "0.0.0.0" in listener.bind_addresses:
                host = "127.0.0.1"
            elif ":" in host and not host.startswith("["):
                host = f"[{host}]"
            return f"{'https' if listener.tls else 'http'}://{host}:{listener.port}"
    raise click.UsageError(
        "The configuration has no TCP listener with the resource client; give the URL."
    )


def registration_mac(secret: str, nonce: str, user: NewUser) -> str:
    """Return the MAC that proves knowledge of the shared secret."""
    parts = [nonce, user.username, user.password, "admin" if user.is_admin else "notadmin"]
    if user.user_type:
        parts.append(user.user_type)
    return hmac.new(secret.encode(), "\0".join(parts).encode(), hashlib.sha1).hexdigest()


def _register(server: Server, secret: str, user: NewUser) -> dict[str, Any]:
    nonce = _call(server, None).get("nonce")
    if not isinstance(nonce, str):
        raise _not_a_matrix_server(server.base)
    body: dict[str, Any] = {
        "nonce": nonce,
        "username": user.username,
        "password": user.password,
        "admin": user.is_admin,
        "mac": registration_mac(secret, nonce, user),
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
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=server.tls()) as response:
            return _json_object(response.read(), base)
    except urllib.error.HTTPError as error:
        with error:
            body_json = _json_object(error.read(), base)
        raise RegistrationRefused(
            str(body_json.get("errcode", error.code)), str(body_json.get("error", error.reason))
        ) from None
    except ValueError:
        raise click.UsageError(
            f"{base} is not an http or https URL; write it like http://localhost:8008"
        ) from None
    except http.client.HTTPException:
        raise _not_a_matrix_server(base) from None
    except OSError as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise click.ClickException(
            f"Cannot reach {base}: {reason}. Is the server running?"
        ) from None


def _json_object(text: bytes, base: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise _not_a_matrix_server(base)
    return value


def _not_a_matrix_server(base: str) -> click.ClickException:
    return click.ClickException(f"{base} does not respond like a Matrix server")
