"""Requests of the services to other servers."""

import attrs

from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.federation.client import FederationClientServices
from hs.nursery.wiring.federation.outbound import wire_outgoing_messages
from hs.nursery.wiring.federation.users import RemoteDeviceLists, wire_remote_device_lists
from hs.nursery.wiring.http_clients import HttpClients
from hs.services.accounts.profiles.profiles import NoRemoteProfiles, RemoteProfiles
from hs.services.devices.remote_devices import NoRemoteDevices, RemoteDevices
from hs.services.federation.requests.policies import RemotePolicyServers
from hs.services.federation.users.federated_devices import FederatedDevices
from hs.services.federation.users.federated_media import FederatedMedia
from hs.services.federation.users.federated_profiles import FederatedProfiles
from hs.services.federation.users.unknown_destinations import UnknownDestinations
from hs.services.media.remote_media import NoRemoteMedia, RemoteMedia
from hs.services.rooms.append.policy_servers import NoPolicyServers, PolicyServers
from hs.services.rooms.membership.remote_rooms import NoRemoteRooms, RemoteRooms


@attrs.frozen(eq=False, kw_only=True)
class RemoteQueries:
    """Requests about users, devices, media and policies; by default, they are not sent.

    `lists` are the device lists of users of other servers, if this server keeps any.
    """

    profiles: RemoteProfiles = attrs.Factory(NoRemoteProfiles)
    devices: RemoteDevices = attrs.Factory(NoRemoteDevices)
    media: RemoteMedia = attrs.Factory(NoRemoteMedia)
    policies: PolicyServers = attrs.Factory(NoPolicyServers)
    lists: RemoteDeviceLists | None = None


@attrs.frozen(eq=False, kw_only=True)
class RemoteServers(RemoteQueries):
    """Replaces all requests of a process to other servers, for tests."""

    rooms: RemoteRooms = attrs.Factory(NoRemoteRooms)


def wire_remote_queries(
    base: ProcessBase, federation: FederationClientServices, http: HttpClients
) -> RemoteQueries:
    """Build the queries, which need no other service."""
    lists = wire_remote_device_lists(base, federation.client)
    return RemoteQueries(
        profiles=FederatedProfiles(
            federation.client,
            base.clock,
            base.feed,
            None if base.cluster is None else base.cluster.freshness,
        ),
        devices=FederatedDevices(
            federation.client,
            base.database,
            lists.writer,
            wire_outgoing_messages(base),
            UnknownDestinations(base.database),
        ),
        policies=RemotePolicyServers(federation.client),
        media=FederatedMedia(
            federation.client, http.downloads, base.settings.media.max_upload_size
        ),
        lists=lists,
    )
