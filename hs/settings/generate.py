"""Writes the first configuration of a server: the smallest that works, its key and its log file."""

import json
import os
import re
import secrets
from pathlib import Path

import attrs

from hs.core.errors import InvalidParam
from hs.core.ids import ServerName, parse_server_name
from hs.core.signing.keys import SigningKey
from hs.settings.errors import Problem, SettingsError

CONFIG_NAME = "homeserver.yaml"
_SECRET_BYTES = 32
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")

_CONFIG = """\
# The smallest configuration that works. Every other setting has a default; docs/configuration.md
# lists them all. Relative paths start at this file's directory.

# Part of every user ID and room alias. It can never be changed.
server_name: {server_name}

listeners:
  - port: {port}
    bind_addresses: {addresses}
    type: http
    # Set to true behind a reverse proxy, and bind to 127.0.0.1 then.
    x_forwarded: false
    resources:
      - names: [client, federation]

database:
  name: sqlite3
  args:
    database: homeserver.db

log_config: {log_config}
signing_key_path: {signing_key}

# Whoever knows this secret can create accounts: `hs register-user` uses it.
registration_shared_secret: {registration_secret}
macaroon_secret_key: {macaroon_secret}
form_secret: {form_secret}
"""

_LOG_CONFIG = """\
# Python's logging.config form. For one JSON object a line, name hs.lib.log.JsonFormatter.
version: 1

formatters:
  lines:
    (): hs.lib.log.TextFormatter

handlers:
  console:
    class: logging.StreamHandler
    formatter: lines
    stream: ext://sys.stderr

root:
  level: INFO
  handlers: [console]

disable_existing_loggers: false
"""


@attrs.frozen(kw_only=True)
class FirstConfig:
    """What to write, and where. `addresses` are what the server listens on."""

    folder: Path
    server_name: ServerName
    port: int = 8008
    addresses: tuple[str, ...] = ("127.0.0.1",)

    @property
    def path(self) -> Path:
        return self.folder / CONFIG_NAME


def checked_server_name(text: str) -> ServerName:
    """Read the name of a new server. Raises: SettingsError."""
    try:
        return parse_server_name(text)
    except InvalidParam:
        raise SettingsError(
            [
                Problem(
                    key="server_name",
                    message=f"{text!r} is not a server name",
                    remedy="use a host name such as example.org, without https://",
                )
            ]
        ) from None


def write_first_config(config: FirstConfig) -> list[Path]:
    """Write what is missing of configuration, signing key and log file; give the new files.

    A configuration that is there already is left alone. Raises: SettingsError.
    """
    stem = _UNSAFE.sub("_", config.server_name)
    signing_key, log_config = f"{stem}.signing.key", f"{stem}.log.yaml"
    texts = {
        signing_key: new_signing_key(),
        log_config: _LOG_CONFIG,
        CONFIG_NAME: _CONFIG.format(
            # JSON's strings and lists are YAML's as well.
            server_name=json.dumps(config.server_name),
            port=config.port,
            addresses=json.dumps(config.addresses),
            log_config=json.dumps(log_config),
            signing_key=json.dumps(signing_key),
            registration_secret=json.dumps(new_secret()),
            macaroon_secret=json.dumps(new_secret()),
            form_secret=json.dumps(new_secret()),
        ),
    }
    try:
        # The database will lie there, with what only its owner may read.
        config.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        paths = {config.folder / name: text for name, text in texts.items()}
        return [path for path, text in paths.items() if _write_new(path, text)]
    except OSError as error:
        raise SettingsError(
            [
                Problem(
                    key="",
                    message=f"cannot write to {config.folder}: {error.strerror}",
                    remedy="choose another directory, or correct its permissions",
                )
            ]
        ) from None


def new_secret() -> str:
    """Make a secret nobody can guess."""
    return secrets.token_urlsafe(_SECRET_BYTES)


def new_signing_key() -> str:
    """Make the text of a signing key file."""
    version = f"a_{secrets.token_hex(3)}"
    return SigningKey.from_seed(version, secrets.token_bytes(32)).file_line()


def _write_new(path: Path, text: str) -> bool:
    """Write a file that only its owner may read, unless it is there."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return True
