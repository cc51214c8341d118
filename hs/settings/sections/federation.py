"""Settings of the exchange with other servers, and of the keys by which servers know each other."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from hs.core.errors import InvalidSigningKey
from hs.core.ids import ServerName
from hs.core.signing.keys import VerifyKey
from hs.settings.fields import block, setting
from hs.settings.kinds import (
    BOOLEAN,
    COUNT,
    DURATION,
    FACTOR,
    PATH,
    SERVER_NAME,
    STRING,
    STRINGS,
    ConfigLocation,
    Kind,
    list_of,
    map_of,
    optional,
)

_TLS_VERSIONS = {"1": "1", "1.0": "1", "1.1": "1.1", "1.2": "1.2", "1.3": "1.3"}


def _read_tls_version(value: Any, at: ConfigLocation) -> str:
    version = _TLS_VERSIONS.get(str(value))
    if version is None or isinstance(value, bool):
        at.reject(f"{value!r:.60} is not a TLS version", 'write "1.2" or "1.3"')
    return version


def _read_verify_keys(value: Any, at: ConfigLocation) -> Mapping[str, VerifyKey]:
    texts = map_of(STRING).read(value, at)
    try:
        return MappingProxyType(
            {key_id: VerifyKey.parse(key_id, text) for key_id, text in texts.items()}
        )
    except InvalidSigningKey as fault:
        at.reject(str(fault), "write key IDs and public keys, like `ed25519:auto: …`")


TLS_VERSION = Kind(
    "one of 1, 1.1, 1.2, 1.3", _read_tls_version, {"enum": [*_TLS_VERSIONS, 1, 1.1, 1.2, 1.3]}
)
VERIFY_KEYS = Kind(
    "map of string",
    _read_verify_keys,
    {"type": ["object", "null"], "additionalProperties": {"type": "string"}},
)


@attrs.frozen(kw_only=True)
class PeerRequestSettings:
    """Timeouts, retries and backoff of requests to other servers; times in milliseconds."""

    client_timeout: int = setting(DURATION, 60_000, "Time for a response.", shown="60s")
    max_short_retry_delay: int = setting(
        DURATION,
        2000,
        "Maximum delay between the attempts of one request.",
        shown="2s",
    )
    max_short_retries: int = setting(COUNT, 3, "Number of further attempts of one request.")
    max_long_retry_delay: int = setting(
        DURATION,
        60_000,
        "Maximum interval without requests to a server after its first failures. These intervals "
        "begin with a second and are doubled.",
        shown="60s",
    )
    max_long_retries: int = setting(COUNT, 10, "Number of such intervals.")
    destination_min_retry_interval: int = setting(
        DURATION,
        600_000,
        "Interval without requests to a server that still fails after that.",
        shown="10m",
    )
    destination_retry_multiplier: float = setting(
        FACTOR,
        2.0,
        "Factor by which that interval grows with each further failure.",
        shown=2,
    )
    destination_max_retry_interval: int = setting(
        DURATION,
        7 * 86_400_000,
        "Maximum of that interval.",
        shown="1w",
    )


@attrs.frozen(kw_only=True)
class FederationSettings:
    """What is exchanged with which servers, and how they are reached."""

    federation_domain_whitelist: tuple[ServerName, ...] | None = setting(
        optional(list_of(SERVER_NAME)),
        None,
        "The only servers with which this server federates; all servers if missing.",
    )
    federation_whitelist_endpoint_enabled: bool = setting(
        BOOLEAN,
        False,
        "Serve `federation_domain_whitelist` to users, at "
        "`/_synapse/client/v1/config/federation_whitelist`.",
    )
    federation_verify_certificates: bool = setting(
        BOOLEAN, True, "Verify TLS certificates of other servers."
    )
    federation_client_minimum_tls_version: str = setting(
        TLS_VERSION,
        "1",
        "Minimum TLS version for connections to other servers. Versions before 1.2 are never used.",
    )
    federation_certificate_verification_whitelist: tuple[str, ...] = setting(
        STRINGS,
        (),
        "Servers whose certificates are not verified; `*` and `?` match any characters.",
        shown=[],
    )
    federation_custom_ca_list: tuple[Path, ...] = setting(
        list_of(PATH),
        (),
        "PEM files of certificate authorities for other servers, instead of those of the system.",
        shown=[],
    )
    federation_metrics_domains: tuple[ServerName, ...] = setting(
        list_of(SERVER_NAME), (), "Servers with separate metrics.", shown=[]
    )
    allow_profile_lookup_over_federation: bool = setting(
        BOOLEAN, True, "Allow profile lookups by other servers."
    )
    allow_device_name_lookup_over_federation: bool = setting(
        BOOLEAN, False, "Reveal device names to other servers."
    )
    allow_public_rooms_over_federation: bool = setting(
        BOOLEAN, False, "Allow other servers to read the room directory."
    )
    federation_rr_transactions_per_room_per_second: int = setting(
        COUNT, 50, "Maximum number of transactions per room and second for read receipts."
    )


@attrs.frozen(kw_only=True)
class RemoteRoomLimit:
    """Which rooms of other servers are too complex to be joined."""

    enabled: bool = setting(BOOLEAN, False, "Reject joins of too complex rooms of other servers.")
    complexity: float = setting(
        FACTOR,
        1.0,
        "Maximum complexity: the number of a room's state events, in units of 500.",
        shown=1,
    )
    complexity_error: str = setting(
        STRING,
        "This room is too large for your homeserver. Ask its administrator.",
        "Message for users.",
    )
    admins_can_join: bool = setting(BOOLEAN, False, "Let server administrators join any room.")


@attrs.frozen(kw_only=True)
class KeyServerSettings:
    """A notary: a server that is asked for the keys of servers that cannot be reached."""

    server_name: ServerName = setting(SERVER_NAME, ServerName("matrix.org"), "Name of the server.")
    verify_keys: Mapping[str, VerifyKey] = setting(
        VERIFY_KEYS,
        MappingProxyType({}),
        "Its keys by key ID; by default they are fetched from it.",
        shown={},
    )
    accept_keys_insecurely: bool = setting(
        BOOLEAN,
        False,
        "Accept it without `verify_keys` even with `federation_verify_certificates: false`.",
    )


def _read_key_servers(value: Any, at: ConfigLocation) -> tuple[KeyServerSettings, ...]:
    servers = list_of(block(KeyServerSettings, is_rule=True)).read(value, at)
    for number, entry in enumerate(value or ()):
        if not entry or "server_name" not in entry:
            at.child(str(number)).reject("server_name is missing", "write `server_name: …`")
    return servers


KEY_SERVERS = Kind("list of object", _read_key_servers, list_of(block(KeyServerSettings)).schema)


@attrs.frozen(kw_only=True)
class KeyExchangeSettings:
    """How long this server's keys are valid, and who is asked for the keys of other servers."""

    key_refresh_interval: int = setting(
        DURATION,
        86_400_000,
        "Validity of the published signing keys.",
        shown="1d",
    )
    trusted_key_servers: tuple[KeyServerSettings, ...] = setting(
        KEY_SERVERS,
        (KeyServerSettings(),),
        "Notaries: servers that are asked for the keys of servers that cannot be reached. Each "
        "has `server_name`, and optionally `verify_keys` (its keys by key ID) and "
        "`accept_keys_insecurely`.",
        shown=[{"server_name": "matrix.org"}],
    )
    suppress_key_server_warning: bool = setting(
        BOOLEAN,
        False,
        "Do not log at startup that matrix.org is a notary.",
    )
    key_server_signing_keys_path: Path | None = setting(
        optional(PATH),
        None,
        "File of the signing keys with which this server, as a notary, signs the keys of others; "
        "by default its own signing key.",
    )
