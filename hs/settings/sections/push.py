"""Settings of push notifications."""

import attrs

from hs.settings.fields import setting
from hs.settings.kinds import BOOLEAN, DURATION


@attrs.frozen(kw_only=True)
class PushSettings:
    """Push rules, unread counts, and the content of push notifications."""

    enabled: bool = setting(
        BOOLEAN,
        True,
        "Evaluate push rules. Without, there are no unread counts and no notifications.",
    )
    include_content: bool = setting(
        BOOLEAN,
        True,
        "Include event content in notifications, unless a pusher asks for event IDs only.",
    )
    group_unread_count_by_room: bool = setting(
        BOOLEAN, True, "Count rooms with unread messages for the badge of an app, not messages."
    )
    jitter_delay: int = setting(DURATION, 0, "Maximum random delay of notifications.", shown="0s")
