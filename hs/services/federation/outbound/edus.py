"""The JSON of EDUs. Receipts and presence of many users are combined in one EDU.

Spec: server-server API, EDUs.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from hs.core.canonical_json import canonical_json, encode_lenient
from hs.core.edus import PRESENCE, RECEIPT, TYPING
from hs.core.streams import PresenceRow
from hs.services.federation.outbound.destination import QueuedEdu


def encode_edu(edu_type: str, content: Mapping[str, Any]) -> bytes:
    """Return an EDU as canonical JSON; clients may have put floats into it. Raises: BadJson."""
    return encode_lenient({"content": content, "edu_type": edu_type})


def typing_edu(room_id: str, user_id: str, is_typing: bool) -> QueuedEdu:
    """Return the EDU that says whether a user is typing."""
    content = {"room_id": room_id, "user_id": user_id, "typing": is_typing}
    return QueuedEdu(encode_edu(TYPING, content))


def receipt_part(
    room_id: str,
    receipt_type: str,
    user_id: str,
    event_id: str,
    thread_id: str | None,
    ts: int,
    position: int,
) -> QueuedEdu:
    """Return the part of an EDU about one receipt."""
    details: dict[str, Any] = {"ts": ts}
    if thread_id:
        details["thread_id"] = thread_id
    content = canonical_json({"data": details, "event_ids": [event_id]})
    return QueuedEdu(receipt=(room_id, receipt_type, user_id, content), receipts_at=position)


def presence_part(row: PresenceRow, now_ms: int) -> QueuedEdu:
    """Return the part of an EDU about one user's presence."""
    content: dict[str, Any] = {
        "user_id": row.user_id,
        "presence": row.state,
        "currently_active": row.currently_active,
    }
    if row.last_active_ts:
        content["last_active_ago"] = max(0, now_ms - row.last_active_ts)
    if row.status_msg is not None:
        content["status_msg"] = row.status_msg
    return QueuedEdu(presence=canonical_json(content))


def joined_edus(queued: Iterable[QueuedEdu]) -> list[bytes]:
    """Return the EDUs to send, with receipts and presence combined."""
    edus: list[bytes] = []
    presence: list[bytes] = []
    receipts: list[dict[str, dict[str, dict[str, bytes]]]] = []
    for each in queued:
        if each.receipt is not None:
            _add_receipt(receipts, each.receipt)
        elif each.presence:
            presence.append(each.presence)
        else:
            edus.append(each.edu)
    edus += [_receipts_edu(rooms) for rooms in receipts]
    if presence:
        content = b'{"push":[' + b",".join(presence) + b"]}"
        edus.append(_edu(PRESENCE, content))
    return edus


def _add_receipt(
    receipts: list[dict[str, dict[str, dict[str, bytes]]]], receipt: tuple[str, str, str, bytes]
) -> None:
    room_id, receipt_type, user_id, content = receipt
    for rooms in receipts:
        users = rooms.setdefault(room_id, {}).setdefault(receipt_type, {})
        # A user has receipts of several threads, of which an EDU can only have one.
        if user_id not in users:
            users[user_id] = content
            return
    receipts.append({room_id: {receipt_type: {user_id: content}}})


def _receipts_edu(rooms: dict[str, dict[str, dict[str, bytes]]]) -> bytes:
    content = _object(
        {
            room_id: _object({kind: _object(users) for kind, users in kinds.items()})
            for room_id, kinds in rooms.items()
        }
    )
    return _edu(RECEIPT, content)


def _object(members: Mapping[str, bytes]) -> bytes:
    """Return an object of encoded members as canonical JSON."""
    return (
        b"{" + b",".join(orjson.dumps(key) + b":" + members[key] for key in sorted(members)) + b"}"
    )


def _edu(edu_type: str, content: bytes) -> bytes:
    return b'{"content":' + content + b',"edu_type":' + orjson.dumps(edu_type) + b"}"
