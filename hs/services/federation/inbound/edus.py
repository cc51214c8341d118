"""EDUs of other servers. Each is checked and applied on its own; a malformed one changes nothing.

Spec: server-server API, EDUs.
"""

import attrs

from hs.core.edus import Edu
from hs.core.ids import ServerName


@attrs.frozen(eq=False)
class InboundEdus:
    """Applies EDUs."""

    async def receive(self, origin: ServerName, edu: Edu) -> None:
        """Apply an EDU."""
