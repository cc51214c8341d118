"""Settings of the server as a whole: name, secrets, TLS, signing keys, metrics, logs, Redis."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from hs.core.ids import ServerName
from hs.settings.fields import block, inline_secret, secret, setting, sub_block
from hs.settings.kinds import (
    BOOLEAN,
    COUNT,
    DURATION,
    INTEGER,
    JSON_OBJECT,
    PATH,
    SERVER_NAME,
    STRING,
    map_of,
    optional,
    or_infinity,
)
from hs.settings.sections.support import SupportSettings


@attrs.frozen(kw_only=True)
class ServerSettings:
    """The server's name, and what it reveals of itself."""

    server_name: ServerName = setting(
        SERVER_NAME,
        ServerName(""),
        "Name of the server, part of every user ID and alias. It cannot be changed later.",
        shown=None,
    )
    public_baseurl: str | None = setting(
        optional(STRING),
        None,
        "URL at which clients reach this server, like `https://matrix.example.org/`.",
    )
    serve_server_wellknown: bool = setting(
        BOOLEAN,
        False,
        "Serve `/.well-known/matrix/server`, which delegates to this server name on port 443.",
    )
    extra_well_known_client_content: Mapping[str, Any] = setting(
        JSON_OBJECT,
        MappingProxyType({}),
        "Additional content of `/.well-known/matrix/client`.",
        shown={},
    )
    well_known_support: SupportSettings = sub_block(
        SupportSettings,
        "Contacts served at `/.well-known/matrix/support`. Synapse does not have this key.",
    )
    default_identity_server: str | None = setting(
        optional(STRING),
        None,
        "URL of the identity server named in `/.well-known/matrix/client`.",
    )
    pid_file: Path | None = setting(
        optional(PATH), None, "File to which the process ID is written."
    )
    soft_file_limit: int = setting(
        COUNT, 0, "Soft limit of open files; 0 for the system's hard limit."
    )
    allow_public_rooms_without_auth: bool = setting(
        BOOLEAN, False, "Show the room directory without authentication."
    )
    allow_guest_access: bool = setting(BOOLEAN, False, "Allow guests to register.")
    require_auth_for_profile_requests: bool = setting(
        BOOLEAN, False, "Require authentication for profile requests."
    )
    limit_profile_requests_to_users_who_share_rooms: bool = setting(
        BOOLEAN, False, "Show profiles only to users who share a room with the user."
    )
    delete_stale_devices_after: int | None = setting(
        or_infinity(DURATION), None, "Time after which unused devices are deleted; never if null."
    )
    filter_timeline_limit: int = setting(
        INTEGER, 100, "Maximum number of timeline events per room in a response; -1 for no limit."
    )
    user_ips_max_age: int | None = setting(
        or_infinity(DURATION),
        28 * 86_400_000,
        "Time for which IP addresses and user agents of clients are stored.",
        shown="28d",
    )


@attrs.frozen(kw_only=True)
class SecretSettings:
    """Secrets that sign tokens and forms."""

    macaroon_secret_key: str | None = secret("Accepted and not needed: access tokens are random.")
    form_secret: str | None = secret(
        "Secret that signs links to the consent page; derived from the signing key if missing."
    )


@attrs.frozen(kw_only=True)
class OldKey:
    """A former signing key, which still verifies old events."""

    key: str = setting(STRING, "", "Public key in base64.")
    expired_ts: int = setting(COUNT, 0, "Time of its last use, in milliseconds since the epoch.")


@attrs.frozen(kw_only=True)
class SigningKeySettings:
    """The keys that sign events; `signing_key` is the content of a key file, given inline."""

    signing_key_path: Path | None = setting(
        optional(PATH), None, "File of the signing key; by default `<server name>.signing.key`."
    )
    signing_key: str | None = inline_secret("The signing key itself, instead of a file.")
    old_signing_keys: Mapping[str, OldKey] = setting(
        map_of(block(OldKey)),
        MappingProxyType({}),
        "Former signing keys, by key ID.",
        shown={},
    )


@attrs.frozen(kw_only=True)
class TlsSettings:
    """The certificate of listeners with `tls: true`."""

    tls_certificate_path: Path | None = setting(
        optional(PATH), None, "PEM file of the certificate and its intermediate certificates."
    )
    tls_private_key_path: Path | None = setting(
        optional(PATH), None, "PEM file of the private key."
    )


@attrs.frozen(kw_only=True)
class MetricsSettings:
    """Prometheus metrics."""

    enable_metrics: bool = setting(
        BOOLEAN, False, "Serve metrics on listeners that have the resource `metrics`."
    )


@attrs.frozen(kw_only=True)
class LoggingSettings:
    """Logging; `config` is the content of the file for logging.config.dictConfig.

    `key` is the key that names the file: `log_config` or `worker_log_config`.
    """

    log_config: Path | None = setting(
        optional(PATH), None, "YAML file in the format of Python's logging.config.dictConfig."
    )
    config: Mapping[str, Any] | None = None
    key: str = "log_config"


@attrs.frozen(kw_only=True)
class RedisSettings:
    """The Redis server through which processes communicate."""

    enabled: bool = setting(BOOLEAN, False, "Connect to Redis; required with workers.")
    host: str = setting(STRING, "localhost", "Host name or address.")
    port: int = setting(COUNT, 6379, "TCP port.")
    path: Path | None = setting(optional(PATH), None, "Unix socket, instead of host and port.")
    username: str | None = setting(optional(STRING), None, "User name (Redis ACL).")
    password: str | None = secret("Password.")
    dbid: int = setting(COUNT, 0, "Number of the Redis database.")
    use_tls: bool = setting(BOOLEAN, False, "Connect with TLS.")
    certificate_file: Path | None = setting(
        optional(PATH), None, "PEM file of the client certificate."
    )
    private_key_file: Path | None = setting(optional(PATH), None, "PEM file of its private key.")
    ca_file: Path | None = setting(
        optional(PATH), None, "PEM file of trusted certificate authorities."
    )
    ca_path: Path | None = setting(
        optional(PATH), None, "Directory of trusted certificate authorities."
    )
