"""The request for the complexity of a room, which some servers know."""

import math
from typing import Final

from hs.core.errors import RemoteFault
from hs.core.ids import RoomID, ServerName
from hs.services.federation_client.client import FederationClient, segment

TIMEOUT_S: Final = 10.0
MAX_BYTES: Final = 65_536


async def get_complexity(client: FederationClient, server: ServerName, room_id: RoomID) -> float:
    """Return the complexity of a room. Raises: RemoteFault."""
    path = f"/_matrix/federation/unstable/rooms/{segment(room_id)}/complexity"
    response = await client.get(server, path, timeout_s=TIMEOUT_S, max_bytes=MAX_BYTES)
    value = response.get("v1")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RemoteFault(server, "its response has no number v1", retry=False)
    return float(value)
