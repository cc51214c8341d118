"""Parsing of the invite permission in a user's account data.

Spec: client-server API, Invite permission.
"""

from collections.abc import Iterable

import orjson

from hs.core.invite_permission import (
    INVITE_PERMISSION_TYPES,
    InvitePermission,
    parse_invite_permission,
)
from hs.services.accounts.account_data.account_data import AccountDataEntry


def invite_permission_in(entries: Iterable[AccountDataEntry]) -> InvitePermission:
    """Return the invite permission that is set in the global account data."""
    return parse_invite_permission(
        {
            type_: orjson.loads(content)
            for room_id, type_, content in entries
            if room_id is None and type_ in INVITE_PERMISSION_TYPES
        }
    )
