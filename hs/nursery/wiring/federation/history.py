"""Events, state and rooms that other servers ask for."""

from hs.apis.federation.history import RoomHistoryApi
from hs.apis.federation.public_rooms import ServedPublicRoomsApi
from hs.nursery.part import Part
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.accounts.accounts import AccountServices
from hs.nursery.wiring.rooms.aliases import AliasServices
from hs.nursery.wiring.rooms.reading import RoomReading
from hs.nursery.wiring.rooms.rooms import Rooms
from hs.services.federation.access.server_access import ServerAccess
from hs.services.federation.access.streamed_events import StreamedEvents
from hs.services.federation.history.served_events import ServedEvents
from hs.services.federation.history.served_spaces import ServedSpaces
from hs.services.federation.history.served_state import ServedState
from hs.services.federation.history.server_visibility import ServerVisibility


def wire_history(
    base: ProcessBase,
    rooms: Rooms,
    reading: RoomReading,
    accounts: AccountServices,
    aliases: AliasServices,
) -> Part:
    """Build the endpoints that read history for other servers."""
    settings, events = base.settings.server, rooms.events
    access = ServerAccess(settings.server_name, rooms.acls, rooms.servers)
    visibility = ServerVisibility(base.database, events, accounts.erased)
    return Part(
        endpoints=[
            RoomHistoryApi(
                server_name=settings.server_name,
                clock=base.clock,
                events=ServedEvents(base.database, events, access, visibility),
                states=ServedState(
                    events=events,
                    states=rooms.states,
                    graph=rooms.graph,
                    access=access,
                    visibility=visibility,
                    streamed=StreamedEvents(events),
                ),
                spaces=ServedSpaces(reading.previews, reading.hierarchy, access),
            ),
            ServedPublicRoomsApi(
                aliases.public_rooms, base.settings.federation.allow_public_rooms_over_federation
            ),
        ]
    )
