"""Writes the initial configuration of a server, with its signing key and log configuration."""

import json
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

import attrs

from hs.core.errors import InvalidParam
from hs.core.ids import ServerName, parse_server_name
from hs.core.signing.keys import SigningKey
from hs.lib.files import make_folders, open_new
from hs.settings.errors import Problem, SettingsError

CONFIG_NAME = "homeserver.yaml"
_SECRET_BYTES = 32
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")

_CONFIG = """\
# The smallest configuration that works. All other settings have defaults, see
# docs/configuration.md. Relative paths start at the directory of this file.
# Part of every user ID and room alias. It cannot be changed later.
server_name: {server_name}

listeners:
  - port: {port}
    bind_addresses: {addresses}
    type: http
    # Set this to true behind a reverse proxy, and then bind to 127.0.0.1 only.
    x_forwarded: false
    resources:
      - names: [client, federation]

database:
  name: sqlite3
  args:
    database: homeserver.db

log_config: {log_config}
signing_key_path: {signing_key}

# Anyone who knows this secret can create accounts. `hs register-user` uses it.
registration_shared_secret: {registration_secret}
macaroon_secret_key: {macaroon_secret}
form_secret: {form_secret}
"""

_LOG_CONFIG = """\
# In the format of Python's logging.config. For JSON lines, use hs.lib.log.JsonFormatter.
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
class InitialConfig:
    """The initial configuration to write; the server will listen on `addresses`."""

    folder: Path
    server_name: ServerName
    port: int = 8008
    addresses: tuple[str, ...] = ("127.0.0.1",)

    @property
    def path(self) -> Path:
        return self.folder / CONFIG_NAME


def parse_new_server_name(text: str) -> ServerName:
    """Parse the name of a new server.

    Raises: SettingsError.
    """
    try:
        return parse_server_name(text)
    except InvalidParam:
        raise SettingsError(
            [
                Problem(
                    key="server_name",
                    message=f"{text!r} is not a server name",
                    remedy="use a host name like example.org, without https://",
                )
            ]
        ) from None


def write_initial_config(config: InitialConfig) -> list[Path]:
    """Write the files that do not exist yet; return those that were written.

    Raises: SettingsError, if the folder cannot be written to.
    """
    stem = _UNSAFE.sub("_", config.server_name)
    signing_key, log_config = f"{stem}.signing.key", f"{stem}.log.yaml"
    texts = {
        signing_key: new_signing_key(),
        log_config: _LOG_CONFIG,
        CONFIG_NAME: _CONFIG.format(
            # JSON strings and lists are valid YAML.
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
        # The folder will contain the database, which only its owner may read.
        make_folders(config.folder)
        paths = {config.folder / name: text for name, text in texts.items()}
        return [path for path, text in paths.items() if _write_new(path, text)]
    except OSError as error:
        raise _unwritable(config.folder, error) from None


def write_secrets(paths: Iterable[Path]) -> None:
    """Write a random secret into each file that does not exist yet. Raises: SettingsError."""
    for path in paths:
        try:
            _write_new(path, f"{new_secret()}\n")
        except OSError as error:
            raise _unwritable(path.parent, error) from None


def _unwritable(folder: Path, error: OSError) -> SettingsError:
    return SettingsError(
        [
            Problem(
                key="",
                message=f"cannot write to {folder}: {error.strerror}",
                remedy="choose another directory, or correct its permissions",
            )
        ]
    )


def new_secret() -> str:
    """Generate a random secret."""
    return secrets.token_urlsafe(_SECRET_BYTES)


def new_signing_key() -> str:
    """Generate the text of a signing key file."""
    version = f"a_{secrets.token_hex(3)}"
    return SigningKey.from_seed(version, secrets.token_bytes(32)).file_line()


def _write_new(path: Path, text: str) -> bool:
    """Write a file readable only by its owner; return False if it exists already."""
    try:
        descriptor = open_new(path)
    except FileExistsError:
        return False
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return True
