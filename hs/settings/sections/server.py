"""Settings of the server as a whole: its name, its secrets, TLS, signing keys, metrics, logs."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from hs.core.ids import ServerName
from hs.settings.fields import block, secret, setting, sub_block
from hs.settings.kinds import (
    BOOLEAN,
    COUNT,
    DURATION,
    INTEGER,
    OBJECT,
    PATH,
    SERVER_NAME,
    STRING,
    endless,
    map_of,
    optional,
)
from hs.settings.sections.support import SupportSettings


@attrs.frozen(kw_only=True)
class ServerSettings:
    """The server's name and how it presents itself."""

    server_name: ServerName = setting(
        SERVER_NAME,
        ServerName(""),
        "The name in every user ID and alias. It can never be changed.",
        shown=None,
    )
    public_baseurl: str | None = setting(
        optional(STRING), None, "Where clients reach this server, as `https://…/`."
    )
    serve_server_wellknown: bool = setting(
        BOOLEAN, False, "Answer `/.well-known/matrix/server` with port 443."
    )
    extra_well_known_client_content: Mapping[str, Any] = setting(
        OBJECT,
        MappingProxyType({}),
        "More entries for `/.well-known/matrix/client`.",
        shown={},
    )
    well_known_support: SupportSettings = sub_block(
        SupportSettings,
        "Contacts told at `/.well-known/matrix/support`; a key of hs, which Synapse lacks.",
    )
    default_identity_server: str | None = setting(
        optional(STRING),
        None,
        "Identity server named at `/.well-known/matrix/client`, as `https://…`.",
    )
    pid_file: Path | None = setting(
        optional(PATH), None, "Where to write the number of the process."
    )
    soft_file_limit: int = setting(
        COUNT, 0, "Limit of open files to set; 0 for the most that the system allows."
    )
    allow_public_rooms_without_auth: bool = setting(
        BOOLEAN, False, "Show the directory of rooms to anybody."
    )
    allow_guest_access: bool = setting(BOOLEAN, False, "Let guests register.")
    require_auth_for_profile_requests: bool = setting(
        BOOLEAN, False, "Show profiles to logged-in users only."
    )
    limit_profile_requests_to_users_who_share_rooms: bool = setting(
        BOOLEAN, False, "Show profiles only to those one shares a room with."
    )
    delete_stale_devices_after: int | None = setting(
        endless(DURATION), None, "Delete devices unused for so long; never when null."
    )
    filter_timeline_limit: int = setting(
        INTEGER, 100, "Most events of a room's timeline in one answer; -1 for no bound."
    )
    user_ips_max_age: int | None = setting(
        endless(DURATION),
        28 * 86_400_000,
        "How long clients' addresses are kept.",
        shown="28d",
    )


@attrs.frozen(kw_only=True)
class SecretSettings:
    """Secrets that sign tokens and forms."""

    macaroon_secret_key: str | None = secret("Accepted and not needed: tokens are random.")
    form_secret: str | None = secret(
        "Signs the links at which users agree to the terms; made of the signing key when missing."
    )


@attrs.frozen(kw_only=True)
class OldKey:
    """A key that once signed events and may still verify them."""

    key: str = setting(STRING, "", "Public key in base64.")
    expired_ts: int = setting(COUNT, 0, "When it was last used, in milliseconds.")


@attrs.frozen(kw_only=True)
class SigningKeySettings:
    """The keys that sign events. `signing_key` is the text of a key file, given inline."""

    signing_key_path: Path | None = setting(
        optional(PATH), None, "File of the signing key; `<server name>.signing.key` when missing."
    )
    signing_key: str | None = setting(
        optional(STRING), None, "The signing key itself, instead of a file."
    )
    old_signing_keys: Mapping[str, OldKey] = setting(
        map_of(block(OldKey)),
        MappingProxyType({}),
        "Retired keys, by ID.",
        shown={},
        is_effective=False,
    )


@attrs.frozen(kw_only=True)
class TlsSettings:
    """The certificate of listeners with `tls: true`."""

    tls_certificate_path: Path | None = setting(
        optional(PATH), None, "PEM file of the certificate and its chain."
    )
    tls_private_key_path: Path | None = setting(
        optional(PATH), None, "PEM file of the certificate's key."
    )


@attrs.frozen(kw_only=True)
class MetricsSettings:
    """Prometheus metrics."""

    enable_metrics: bool = setting(
        BOOLEAN, False, "Serve metrics on listeners that have the resource `metrics`."
    )


@attrs.frozen(kw_only=True)
class LoggingSettings:
    """Logs. `config` is the content of `log_config`, ready for logging.config.dictConfig."""

    log_config: Path | None = setting(
        optional(PATH), None, "YAML file in the form of Python's logging.config.dictConfig."
    )
    config: Mapping[str, Any] | None = None


@attrs.frozen(kw_only=True)
class RedisSettings:
    """The Redis that carries messages between processes."""

    enabled: bool = setting(BOOLEAN, False, "Needed as soon as there are workers.")
    host: str = setting(STRING, "localhost", "Host name or address.")
    port: int = setting(COUNT, 6379, "TCP port.")
    path: Path | None = setting(optional(PATH), None, "Unix socket, instead of host and port.")
    username: str | None = setting(optional(STRING), None, "User of Redis's access lists.")
    password: str | None = secret("Password.")
    dbid: int = setting(COUNT, 0, "Number of the database.")
    use_tls: bool = setting(BOOLEAN, False, "Connect with TLS.")
    certificate_file: Path | None = setting(optional(PATH), None, "Client certificate.")
    private_key_file: Path | None = setting(optional(PATH), None, "Its key.")
    ca_file: Path | None = setting(optional(PATH), None, "Authorities to trust, one file.")
    ca_path: Path | None = setting(
        optional(PATH), None, "Authorities to trust, a directory.", is_effective=False
    )
