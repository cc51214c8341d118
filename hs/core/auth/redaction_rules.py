"""Whether a redaction takes effect: a rule of auth in room versions 1 and 2, later one apart.

Spec: rooms/v1, Authorization rules, step 11; rooms/v3, Handling redactions.
"""

from hs.core.auth.power_levels import PowerLevels
from hs.core.errors import Forbidden
from hs.core.events.event import Event
from hs.core.ids import server_in, server_of


def check_redaction(event: Event, power: PowerLevels) -> None:
    """Refuse a redaction in room versions 1 and 2 by who is neither moderator nor author's server.

    Raises: Forbidden.
    """
    # Step 11.1
    if power.of_user(event.sender) >= power.redact:
        return
    # Step 11.2
    target = event.redacts
    if target is not None and server_in(target) == server_in(event.event_id):
        return
    raise Forbidden(f"To redact others' events needs power {power.redact}")


def redaction_applies(redaction: Event, target: Event, power: PowerLevels) -> bool:
    """Tell whether a redaction that is here takes its target away, the target being here too.

    `power` is of the state at the redaction.
    """
    if redaction.redacts != target.event_id or redaction.room_id != target.room_id:
        return False
    if redaction.rules.redaction_auth_rule:
        return True  # it would have been rejected
    if power.of_user(redaction.sender) >= power.redact:
        return True
    return server_of(redaction.sender) == server_of(target.sender)
