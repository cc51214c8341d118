"""Keys that restrict or identify users or servers and have no effect in this version.

A server that passed over them would do what its administrator forbids, so it refuses to start,
unless the administrator names the key in `--allow-ineffective`. When a key becomes effective, its
entry here is deleted; a test checks that no effective key has one.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import attrs

from hs.settings.errors import Problem
from hs.settings.kinds import ConfigLocation

OPTION = "--allow-ineffective"


@attrs.frozen
class Restriction:
    """A key, when its value restricts or identifies, and what happens without its effect.

    `spares_all` says whether other keys weaken it so far that it restricts nobody.
    """

    key: str
    is_active: Callable[[Any], bool]
    consequence: str
    spares_all: Callable[[Mapping[str, Any]], bool] = lambda values: False


def _is_enabled(value: Any) -> bool:
    """Return whether a block has `enabled: true`."""
    return bool(value.get("enabled") if isinstance(value, Mapping) else value)


def _is_off(value: Any) -> bool:
    return value is False


def _is_not_disabled(value: Any) -> bool:
    """Return whether a block has any content but `enabled: false`."""
    return bool(value) and not (isinstance(value, Mapping) and not value.get("enabled", True))


def _is_saml(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return bool(value)
    return _is_not_disabled(value) and bool(value.get("sp_config") or value.get("config_path"))


def _requires_approval(value: Any) -> bool:
    """Return whether new accounts need the approval of an administrator (MSC3866)."""
    if not isinstance(value, Mapping):
        return bool(value)
    return bool(value.get("enabled") and value.get("require_approval_for_new_accounts"))


def _allows_any_number_of_users(values: Mapping[str, Any]) -> bool:
    """Return whether `max_mau_value` is more than one server of this version could serve."""
    limit = values.get("max_mau_value")
    return isinstance(limit, int) and limit >= _MORE_USERS_THAN_FIT


_MORE_USERS_THAN_FIT = 10_000_000
_CODE = "third-party modules are not loaded, so nothing is checked or changed by them"
_LOGIN = "users could not log in this way, but could with a password"

RESTRICTIONS = (
    Restriction("modules", bool, _CODE),
    Restriction("spam_checker", bool, _CODE),
    Restriction("third_party_event_rules", bool, _CODE),
    Restriction("password_providers", bool, _CODE),
    Restriction("ldap_config", _is_enabled, _LOGIN),
    Restriction("oidc_providers", bool, _LOGIN),
    Restriction("oidc_config", _is_enabled, _LOGIN),
    Restriction("saml2_config", _is_saml, _LOGIN),
    Restriction("saml2_enabled", bool, _LOGIN),
    # Documented as disabled by default.
    Restriction("cas_config", _is_enabled, _LOGIN),
    Restriction("matrix_authentication_service", _is_enabled, _LOGIN),
    Restriction("experimental_features.msc3861", _is_enabled, _LOGIN),
    Restriction(
        "experimental_features.msc3866",
        _requires_approval,
        "new accounts could be used without the approval of an administrator",
    ),
    Restriction("account_validity", _is_enabled, "accounts would never expire"),
    Restriction(
        "limit_usage_by_mau",
        bool,
        "the number of active users would not be limited",
        spares_all=_allows_any_number_of_users,
    ),
    Restriction(
        "enable_local_media_storage", _is_off, "media would be kept in the local media folder"
    ),
    Restriction(
        "limit_large_remote_room_joins", _is_enabled, "users could join rooms of any complexity"
    ),
)
RESTRICTING_KEYS = frozenset(restriction.key for restriction in RESTRICTIONS)


def refuse_ineffective_keys(
    values: Mapping[str, Any],
    allowed: Collection[str],
    at: Callable[[str], ConfigLocation],
    problems: list[Problem],
) -> dict[str, Any]:
    """Add a problem for each active restriction, or a warning if it is allowed.

    Returns: the values without the top-level keys that were reported.
    """
    remaining = dict(values)
    for restriction in RESTRICTIONS:
        name, _, inner = restriction.key.partition(".")
        value = values.get(name)
        if inner:
            value = value.get(inner) if isinstance(value, Mapping) else None
        if name not in values or (inner and value is None) or not restriction.is_active(value):
            continue
        if restriction.spares_all(values):
            continue
        message = f"has no effect in this version: {restriction.consequence}"
        place = at(name).child(inner) if inner else at(name)
        if not inner:
            del remaining[name]
        if restriction.key in allowed:
            place.warn(message)
            continue
        remedy = f"remove it, or, if you accept this, start with `{OPTION} {restriction.key}`"
        problems.append(
            Problem(key=restriction.key, message=message, remedy=remedy, origin=place.origin)
        )
    return remaining
