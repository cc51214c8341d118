"""Redacts many events of a room, as the follow-up of another request."""

from collections.abc import Iterable
from itertools import islice
from typing import Any, Final

from hs.core.errors import Forbidden
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import Draft

MAX_REDACTED: Final = 1000
BATCH: Final = 50


async def append_redactions(
    appender: RoomAppender,
    room_id: RoomID,
    sender: UserID,
    event_ids: Iterable[str],
    reason: str | None,
) -> None:
    """Redact events in batches; end early at one that the sender may not redact."""
    content: dict[str, Any] = {} if reason is None else {"reason": reason}
    remaining = iter(event_ids)
    while batch := list(islice(remaining, BATCH)):
        drafts = [
            Draft(event_types.REDACTION, sender, content, redacts=EventID(event_id))
            for event_id in batch
        ]
        try:
            await appender.append(room_id, drafts)
        except Forbidden:
            # Whoever may ban, or redact the event itself, need not be allowed to redact all others.
            return
