"""Server notices that ask users to agree to the terms, once per version."""

import logging
from collections.abc import Callable
from typing import Any, Final

import attrs

from hs.core.ids import UserID
from hs.lib.clock import Clock
from hs.services.admin.server_notices import ServerNotices
from hs.services.rooms.append.drafts import TransactionKey
from hs.settings.sections.consent import ConsentSettings
from hs.storage.admin import server_notices as storage
from hs.storage.database import Database

POLL_S: Final = 60.0
SEEN_WITHIN_MS: Final = 3_600_000
BATCH: Final = 100
_SCOPE: Final = "notice of the terms"
_URI: Final = "%(consent_uri)s"

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class ConsentNotices:
    """The duty that sends consent notices; `uri_for` returns a user's consent URL."""

    _database: Database
    _clock: Clock
    _settings: ConsentSettings
    _uri_for: Callable[[str], str]
    _notices: ServerNotices

    async def send_due(self) -> int:
        """Notify recently seen users who have not been notified yet; return their number."""
        version, notices_user = self._settings.version, self._notices.notices_user
        if version is None or notices_user is None:
            return 0
        since_ms, sent = self._clock.now_ms() - SEEN_WITHIN_MS, 0
        include_guests = self._settings.send_server_notice_to_guests
        while users := await self._database.read(
            storage.list_without_consent, version, since_ms, include_guests, notices_user, BATCH
        ):
            for user_id in users:
                content = with_consent_uri(
                    dict(self._settings.server_notice_content), self._uri_for(user_id)
                )
                # The transaction ID makes a repetition after a crash return the same event.
                txn = TransactionKey(notices_user, "", _SCOPE, f"{user_id} {version}")
                await self._notices.send(UserID(user_id), content, txn=txn)
                await self._database.write(storage.record_consent_notice, user_id, version)
            sent += len(users)
        if sent:
            log.info("sent consent notices for version %s of the terms to %d users", version, sent)
        return sent


def with_consent_uri(value: Any, uri: str) -> Any:
    """Replace the placeholder of the consent URL in all strings of a content."""
    if isinstance(value, str):
        return value.replace(_URI, uri)
    if isinstance(value, dict):
        return {key: with_consent_uri(member, uri) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [with_consent_uri(member, uri) for member in value]
    return value
