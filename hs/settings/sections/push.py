"""Settings of notifications."""

import attrs

from hs.settings.fields import setting
from hs.settings.kinds import BOOLEAN, DURATION


@attrs.frozen(kw_only=True)
class PushSettings:
    """What notifies users, and what notifications tell those who carry them."""

    enabled: bool = setting(
        BOOLEAN,
        True,
        "Apply push rules: without, nothing is counted as unread and nobody notified.",
    )
    include_content: bool = setting(
        BOOLEAN, True, "Put the content of events into notifications, unless clients ask for less."
    )
    group_unread_count_by_room: bool = setting(
        BOOLEAN, True, "The number on an app's icon counts rooms, not messages."
    )
    jitter_delay: int = setting(
        DURATION, 0, "Delay notifications by up to so long, by chance.", shown="0s"
    )
