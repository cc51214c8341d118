"""Who tells users what the server has to say."""

from hs.core.ids import UserID
from hs.settings.settings import Settings


def notices_user_of(settings: Settings) -> UserID | None:
    """Give the user who sends notices; None where none are sent."""
    localpart = settings.server_notices.system_mxid_localpart
    return None if not localpart else UserID(f"@{localpart}:{settings.server.server_name}")
