"""Keys of old versions: converted to their present form, rejected, or ignored with a note."""

from collections.abc import Callable, Mapping
from typing import Any

from hs.settings.errors import Origin, Problem
from hs.settings.kinds import ConfigLocation
from hs.settings.sections.outgoing import PRIVATE_NETWORKS

Values = dict[str, Any]

_IGNORED = {
    "enable_legacy_metrics": "metrics have only their new names",
    "gzip_responses": "compression is set per listener, by `resources[].compress`",
    "webclient": "no web client is served",
    "no_tls": "TLS is set per listener",
    "bind_host": "use `listeners`",
    "bind_port": "use `listeners`",
    "unsecure_port": "use `listeners`",
    "metrics_port": "use a listener with `type: metrics`",
    "metrics_bind_host": "use a listener with `type: metrics`",
    "worker_replication_port": "processes communicate through Redis",
    "log_file": "use `log_config`",
    "verbose": "use `log_config`",
    "no_redirect_stdio": "output is never redirected",
    "enable_group_creation": "groups no longer exist",
    "group_creation_prefix": "groups no longer exist",
    "replication_torture_level": "it only served Synapse's own tests",
    "trust_identity_server_for_password_resets": "use `account_threepid_delegates`",
    "synctl_cache_factor": "use `caches.global_factor`",
    "synctl_cache_factors": "use `caches.per_cache_factors`",
    "ldap_config": "LDAP is not supported",
    "password_providers": "modules are not supported",
    "spam_checker": "modules are not supported",
    "third_party_event_rules": "modules are not supported",
    "limit_large_remote_room_joins": "use `limit_remote_rooms`",
    "account_validity": "it has no effect in this version",
    "oidc_config": "it has no effect in this version",
    "saml2_enabled": "it has no effect in this version",
    "cleanup_extremities_with_dummy_events": "it has no effect in this version",
    "enable_ephemeral_messages": "it has no effect in this version",
    "enable_registration_token_3pid_bypass": "it has no effect in this version",
    "invite_3pid_guest": "it has no effect in this version",
    "dont_notify_new_devices_for": "it has no effect in this version",
    "use_account_validity_in_account_status": "it has no effect in this version",
    "federation_rc_window_size": "use `rc_federation`",
    "federation_rc_sleep_limit": "use `rc_federation`",
    "federation_rc_sleep_delay": "use `rc_federation`",
    "federation_rc_reject_limit": "use `rc_federation`",
    "federation_rc_concurrent": "use `rc_federation`",
}
_MOVED = {
    "use_presence": ("presence", "enabled"),
    "sync_response_cache_duration": ("caches", "sync_response_cache_duration"),
}
_REFUSED = {
    "database_config": (
        "no longer read, so a new, empty database would be used",
        "write its content under `database`",
    ),
    "database_engine": (
        "no longer read, so a new, empty database would be used",
        "write `database: {name: …, args: {…}}`",
    ),
}
LEGACY_KEYS = frozenset(
    {
        *_IGNORED,
        *_MOVED,
        *_REFUSED,
        "rc_messages_per_second",
        "rc_message_burst_count",
        "room_invite_state_types",
        "backup_media_store_path",
        "synchronous_backup_media_store",
        "perspectives",
        "database_path",
        "federation_ip_range_blacklist",
        "disable_registration",
        "restrict_public_rooms_to_local_users",
    }
)


def convert_legacy_keys(
    values: Values, at: Callable[[str], ConfigLocation], problems: list[Problem]
) -> Values:
    """Return the values with legacy keys converted; a key in its present form wins."""
    converted = {key: value for key, value in values.items() if key not in LEGACY_KEYS}
    for key in (key for key in values if key in LEGACY_KEYS):
        if key in _REFUSED:
            message, remedy = _REFUSED[key]
            problems.append(Problem(key=key, message=message, remedy=remedy, origin=at(key).origin))
        elif key in _MOVED:
            _move_into_block(converted, key, values[key], at)
        elif key in _IGNORED:
            at(key).note(f"ignored: {_IGNORED[key]}")
        else:
            _convert(converted, key, values, at)
    return converted


def _move_into_block(
    converted: Values, key: str, value: Any, at: Callable[[str], ConfigLocation]
) -> None:
    block, name = _MOVED[key]
    present = converted.get(block) or {}
    if isinstance(present, Mapping):
        converted[block] = {name: value, **present}
    at(key).note(f"old name, read as {block}.{name}")


def _convert(
    converted: Values, key: str, values: Values, at: Callable[[str], ConfigLocation]
) -> None:
    match key:
        case "rc_messages_per_second":
            burst = values.get("rc_message_burst_count", 10)
            converted.setdefault("rc_message", {"per_second": values[key], "burst_count": burst})
            at(key).note("old name, read as rc_message")
        case "rc_message_burst_count":
            rate = {"per_second": values.get("rc_messages_per_second", 0.2)}
            converted.setdefault("rc_message", {**rate, "burst_count": values[key]})
        case "room_invite_state_types":
            converted.setdefault("room_prejoin_state", {"additional_event_types": values[key]})
            at(key).note("old name, read as room_prejoin_state")
        case "backup_media_store_path":
            is_synchronous = values.get("synchronous_backup_media_store", False)
            _add_folder_provider(converted, values[key], is_synchronous=is_synchronous)
            at(key).note("old name, read as media_storage_providers")
        case "perspectives":
            converted.setdefault("trusted_key_servers", _key_servers(values[key]))
            at(key).note("old name, read as trusted_key_servers")
        case "database_path":
            converted.setdefault("database", {"name": "sqlite3", "args": {"database": values[key]}})
            at(key).note("old name, read as database")
        case "federation_ip_range_blacklist":
            # Here one list applies to all requests, so it gets the entries of both.
            general = values.get("ip_range_blacklist", [*PRIVATE_NETWORKS])
            converted["ip_range_blacklist"] = [*(general or []), *(values[key] or [])]
            at(key).note("old name, added to ip_range_blacklist")
        case "disable_registration":
            _allow_unless(converted, "enable_registration", values[key])
            at(key).note("old name, read as enable_registration")
        case "restrict_public_rooms_to_local_users":
            _allow_unless(converted, "allow_public_rooms_without_auth", values[key])
            at(key).note("old name, read as allow_public_rooms_without_auth")


def _key_servers(value: Any) -> Any:
    """Return the entries of `perspectives` in the present form; what is malformed as it is."""
    servers = value.get("servers") if isinstance(value, Mapping) else None
    if not isinstance(servers, Mapping):
        return value
    return [
        {
            "server_name": name,
            "verify_keys": {
                key_id: key.get("key") if isinstance(key, Mapping) else key
                for key_id, key in ((entry or {}).get("verify_keys") or {}).items()
            },
        }
        for name, entry in servers.items()
    ]


def _allow_unless(converted: Values, name: str, restriction: Any) -> None:
    """Set a key from an old one with the opposite meaning; of two, the restriction applies."""
    if restriction is False:
        converted.setdefault(name, True)
    else:
        converted[name] = False


def _add_folder_provider(converted: Values, directory: Any, *, is_synchronous: Any) -> None:
    provider = {
        "module": "file_system",
        "store_local": True,
        "store_remote": True,
        "store_synchronous": is_synchronous,
        "config": {"directory": directory},
    }
    converted.setdefault("media_storage_providers", [provider])


def origin_of(origins: Mapping[str, Origin], key: str) -> Origin:
    """Return the origin of a top-level key; an empty one if the key was not given."""
    return origins.get(key, Origin())
