"""Asks users by server notice to agree to the terms of use, once for each version."""

import logging
from collections.abc import Callable
from typing import Any, Final

import attrs

from hs.core.ids import UserID
from hs.lib.clock import Clock
from hs.services.admin.server_notices import ServerNotices
from hs.services.rooms.append.drafts import TxnKey
from hs.settings.sections.consent import ConsentSettings
from hs.storage.admin import server_notices as storage
from hs.storage.database import Database

EVERY_S: Final = 60.0
SEEN_WITHIN_MS: Final = 3_600_000
BATCH: Final = 100
_SCOPE: Final = "notice of the terms"
_URI: Final = "%(consent_uri)s"

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class ConsentNotices:
    """Asks those who use the server; one process does. `uri_for` is where each can agree."""

    _database: Database
    _clock: Clock
    _settings: ConsentSettings
    _uri_for: Callable[[str], str]
    _notices: ServerNotices

    async def ask(self) -> int:
        """Ask everybody who was seen lately and has not been asked; give how many."""
        version, speaker = self._settings.version, self._notices.notices_user
        if version is None or speaker is None:
            return 0
        since_ms, asked = self._clock.now_ms() - SEEN_WITHIN_MS, 0
        guests_too = self._settings.send_server_notice_to_guests
        while users := await self._database.read(
            storage.to_be_asked, version, since_ms, guests_too, speaker, BATCH
        ):
            for user_id in users:
                content = filled(dict(self._settings.server_notice_content), self._uri_for(user_id))
                # Sent again after a crash before the note, it is the same event.
                txn = TxnKey(speaker, "", _SCOPE, f"{user_id} {version}")
                await self._notices.send(UserID(user_id), content, txn=txn)
                await self._database.write(storage.note_asked, user_id, version)
            asked += len(users)
        if asked:
            log.info("%d users were asked to agree to the terms, version %s", asked, version)
        return asked


def filled(value: Any, uri: str) -> Any:
    """Put the address into all texts of a content."""
    if isinstance(value, str):
        return value.replace(_URI, uri)
    if isinstance(value, dict):
        return {key: filled(one, uri) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [filled(one, uri) for one in value]
    return value
