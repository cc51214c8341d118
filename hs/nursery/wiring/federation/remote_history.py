"""Requests to other servers for users who read rooms."""

import attrs

from hs.nursery.part import Part
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.federation.client import FederationClientServices
from hs.nursery.wiring.rooms.rooms import Rooms
from hs.services.directory.public_rooms import RoomDirectories
from hs.services.federation.access.server_access import ServerAccess
from hs.services.federation.access.servers_to_ask import ServersToAsk
from hs.services.federation.history.backfill import HistoryBackfill
from hs.services.federation.history.federated_spaces import FederatedSpaces
from hs.services.federation.history.history_fetcher import HistoryFetcher
from hs.services.federation.history.state_fetcher import StateFetcher
from hs.services.federation.history.timestamp_lookup import TimestampLookup
from hs.services.federation.requests.directory import RemoteRoomDirectories
from hs.services.rooms.membership.remote_rooms import RemoteRooms
from hs.services.rooms.read.older_history import OlderHistory
from hs.services.rooms.read.remote_spaces import RemoteSpaces


@attrs.frozen(eq=False, kw_only=True)
class RemoteHistory:
    """Requests to other servers for users who read rooms."""

    older: OlderHistory
    spaces: RemoteSpaces
    directories: RoomDirectories
    part: Part


def wire_remote_history(
    base: ProcessBase,
    federation: FederationClientServices,
    rooms: Rooms,
    remote_rooms: RemoteRooms,
) -> RemoteHistory:
    """Build what asks other servers for history."""
    database = base.database
    access = ServerAccess(base.settings.server.server_name, rooms.acls, rooms.servers)
    servers = ServersToAsk(rooms.servers, access)
    states = StateFetcher(federation.client, database)
    fetcher = HistoryFetcher(federation.client, database, rooms.receiver, states)
    backfill = HistoryBackfill(
        database=database,
        clock=base.clock,
        room_servers=rooms.servers,
        servers=servers,
        fetcher=fetcher,
        times=TimestampLookup(federation.client, database, servers, fetcher),
    )
    return RemoteHistory(
        older=backfill,
        spaces=FederatedSpaces(federation.client, remote_rooms, base.clock),
        directories=RemoteRoomDirectories(federation.client),
        part=Part(runners=[("backfill", backfill.run)]),
    )
