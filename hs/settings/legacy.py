"""Keys of former times: put into today's form, refused with the remedy, or named as ignored."""

from collections.abc import Callable, Mapping
from typing import Any

from hs.settings.errors import Origin, Problem
from hs.settings.kinds import At

Values = dict[str, Any]

_IGNORED = {
    "enable_legacy_metrics": "the old metric names do not exist here",
    "gzip_responses": "compression is set per listener, by `resources[].compress`",
    "webclient": "no web client is served",
    "no_tls": "TLS is set per listener",
    "bind_host": "use `listeners`",
    "bind_port": "use `listeners`",
    "unsecure_port": "use `listeners`",
    "metrics_port": "use a listener with `type: metrics`",
    "metrics_bind_host": "use a listener with `type: metrics`",
    "log_file": "use `log_config`",
    "verbose": "use `log_config`",
    "no_redirect_stdio": "output is never redirected",
    "database_config": "use `database`",
    "database_engine": "use `database`",
    "enable_group_creation": "groups no longer exist",
    "group_creation_prefix": "groups no longer exist",
    "replication_torture_level": "for tests of another server",
    "trust_identity_server_for_password_resets": "use `account_threepid_delegates`",
    "synctl_cache_factor": "use `caches.global_factor`",
    "synctl_cache_factors": "use `caches.per_cache_factors`",
    "ldap_config": "not yet effective: there is no LDAP",
    "password_providers": "not yet effective: modules are not loaded",
    "spam_checker": "not yet effective: modules are not loaded",
    "third_party_event_rules": "not yet effective: modules are not loaded",
    "account_validity": "not yet effective",
    "oidc_config": "not yet effective",
    "saml2_enabled": "not yet effective",
    "cleanup_extremities_with_dummy_events": "not yet effective",
    "enable_ephemeral_messages": "not yet effective",
    "enable_registration_token_3pid_bypass": "not yet effective",
    "invite_3pid_guest": "not yet effective",
    "dont_notify_new_devices_for": "not yet effective",
    "use_account_validity_in_account_status": "not yet effective",
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
    "worker_replication_port": (
        "direct TCP replication no longer exists",
        "remove it, set `redis.enabled: true` and `instance_map.main`",
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
        "disable_registration",
        "restrict_public_rooms_to_local_users",
    }
)


def modernised(values: Values, at: Callable[[str], At], problems: list[Problem]) -> Values:
    """Give the values with old keys put into today's form. Keys of today win over old ones."""
    today = {key: value for key, value in values.items() if key not in LEGACY_KEYS}
    for key in (key for key in values if key in LEGACY_KEYS):
        if key in _REFUSED:
            message, remedy = _REFUSED[key]
            problems.append(Problem(key=key, message=message, remedy=remedy, origin=at(key).origin))
        elif key in _MOVED:
            _move_into_block(today, key, values[key], at)
        elif key in _IGNORED:
            at(key).note(f"ignored: {_IGNORED[key]}")
        else:
            _convert(today, key, values, at)
    return today


def _move_into_block(today: Values, key: str, value: Any, at: Callable[[str], At]) -> None:
    block, name = _MOVED[key]
    present = today.get(block) or {}
    if isinstance(present, Mapping):
        today[block] = {name: value, **present}
    at(key).note(f"old form, taken as {block}.{name}")


def _convert(today: Values, key: str, values: Values, at: Callable[[str], At]) -> None:
    match key:
        case "rc_messages_per_second":
            burst = values.get("rc_message_burst_count", 10)
            today.setdefault("rc_message", {"per_second": values[key], "burst_count": burst})
            at(key).note("old form, taken as rc_message")
        case "rc_message_burst_count":
            rate = {"per_second": values.get("rc_messages_per_second", 0.2)}
            today.setdefault("rc_message", {**rate, "burst_count": values[key]})
        case "room_invite_state_types":
            today.setdefault("room_prejoin_state", {"additional_event_types": values[key]})
            at(key).note("old form, taken as room_prejoin_state")
        case "backup_media_store_path":
            is_waited_for = values.get("synchronous_backup_media_store", False)
            _copied_to_folder(today, values[key], is_waited_for=is_waited_for)
            at(key).note("old form, taken as media_storage_providers")
        case "perspectives":
            at(key).note("old form of trusted_key_servers; not yet effective")
        case "database_path":
            today.setdefault("database", {"name": "sqlite3", "args": {"database": values[key]}})
            at(key).note("old form, taken as database")
        case "disable_registration":
            today.setdefault("enable_registration", values[key] is False)
            at(key).note("old form, taken as enable_registration")
        case "restrict_public_rooms_to_local_users":
            today.setdefault("allow_public_rooms_without_auth", values[key] is False)
            at(key).note("old form, taken as allow_public_rooms_without_auth")


def _copied_to_folder(today: Values, directory: Any, *, is_waited_for: Any) -> None:
    provider = {
        "module": "file_system",
        "store_local": True,
        "store_remote": True,
        "store_synchronous": is_waited_for,
        "config": {"directory": directory},
    }
    today.setdefault("media_storage_providers", [provider])


def origin_of(origins: Mapping[str, Origin], key: str) -> Origin:
    """The file and line of a top-level key, or of nothing when it was never written."""
    return origins.get(key, Origin())
