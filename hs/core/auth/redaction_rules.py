"""Rules for redactions: whether the event is allowed, and whether it takes effect.

In room versions 1 and 2 the authorisation rules reject a redaction that is not allowed. From
version 3 on such a redaction is accepted, and has no effect.

Spec: rooms/v1, Authorisation rules, step 11; rooms/v3, Handling redactions.
"""

from hs.core.auth.power_levels import PowerLevels
from hs.core.errors import Forbidden
from hs.core.events.event import Event
from hs.core.ids import server_in, server_of


def check_redaction(event: Event, power: PowerLevels) -> None:
    """Check that a redaction is allowed in room versions 1 and 2.

    The sender needs the `redact` power level, unless the target is an event of the same server.

    Raises: Forbidden.
    """
    # Step 11.1
    if power.of_user(event.sender) >= power.redact:
        return
    # Step 11.2
    target = event.redacts
    if target is not None and server_in(target) == server_in(event.event_id):
        return
    raise Forbidden(f"Redacting events of other servers requires power level {power.redact}")


def redaction_applies(redaction: Event, target: Event, power: PowerLevels) -> bool:
    """Return whether a redaction takes effect on its target; both events have been accepted.

    `power` is of the state at the redaction.
    """
    if redaction.redacts != target.event_id or redaction.room_id != target.room_id:
        return False
    if redaction.rules.redaction_auth_rule:
        return True  # otherwise `check_redaction` would have rejected it
    if power.of_user(redaction.sender) >= power.redact:
        return True
    return server_of(redaction.sender) == server_of(target.sender)
