"""Federation: the endpoints, the sending and the receiving of events."""

from contextlib import nullcontext

import attrs

from hs.apis.federation.directory import DirectoryQueryApi
from hs.apis.federation.openid_userinfo import OpenIdUserInfoApi
from hs.apis.federation.third_party_binds import ThirdPartyBindsApi
from hs.apis.federation.version import ServerVersionApi
from hs.apis.web.drain import Drain
from hs.apis.web.limits import Admission, WorkClass
from hs.nursery.part import Part
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.accounts.accounts import AccountServices
from hs.nursery.wiring.appservices import AppserviceClients
from hs.nursery.wiring.devices import DeviceServices
from hs.nursery.wiring.ephemeral import EphemeralServices
from hs.nursery.wiring.federation.client import FederationClientServices
from hs.nursery.wiring.federation.history import wire_history
from hs.nursery.wiring.federation.inbound import wire_inbound
from hs.nursery.wiring.federation.joining import wire_joining
from hs.nursery.wiring.federation.outbound import wire_outbound
from hs.nursery.wiring.federation.users import (
    RemoteDeviceLists,
    wire_device_list_duties,
    wire_served_media,
    wire_served_users,
)
from hs.nursery.wiring.media import MediaServices
from hs.nursery.wiring.rooms.aliases import AliasServices
from hs.nursery.wiring.rooms.membership import MembershipServices
from hs.nursery.wiring.rooms.reading import RoomReading
from hs.nursery.wiring.rooms.rooms import Rooms
from hs.services.federation.access.event_admission import EventAdmission


@attrs.frozen(eq=False, kw_only=True)
class FederatedSubjects:
    """The services that federation is built on."""

    client: FederationClientServices
    rooms: Rooms
    reading: RoomReading
    aliases: AliasServices
    members: MembershipServices
    accounts: AccountServices
    devices: DeviceServices
    ephemeral: EphemeralServices
    media: MediaServices
    appservices: AppserviceClients
    lists: RemoteDeviceLists | None
    admission: Admission
    drain: Drain


def wire_federation(base: ProcessBase, subjects: FederatedSubjects) -> list[Part]:
    """Build federation, a part for each of its subjects."""
    admission = _event_admission(subjects)
    return [
        _wire_server_api(subjects),
        wire_served_media(base, subjects.media, subjects.drain),
        wire_device_list_duties(base, subjects.lists, subjects.rooms),
        wire_outbound(
            base, subjects.client.client, subjects.rooms, subjects.ephemeral.presence.states
        ),
        wire_inbound(
            base,
            subjects.client,
            subjects.rooms,
            subjects.devices,
            subjects.ephemeral,
            admission,
            lists=None if subjects.lists is None else subjects.lists.updates,
        ),
        wire_joining(
            base, subjects.rooms, subjects.members, subjects.appservices.queries, admission
        ),
        wire_history(base, subjects.rooms, subjects.reading, subjects.accounts, subjects.aliases),
        wire_served_users(base, subjects.accounts, subjects.devices),
    ]


def _event_admission(subjects: FederatedSubjects) -> EventAdmission:
    gates = subjects.admission
    return EventAdmission(
        subjects.client.keys,
        waiting=gates.gate(WorkClass.PEER_KEYS) or nullcontext(),
        running=gates.gate(WorkClass.PEERS) or nullcontext(),
    )


def _wire_server_api(subjects: FederatedSubjects) -> Part:
    return Part(
        endpoints=[
            OpenIdUserInfoApi(subjects.accounts.openid),
            ThirdPartyBindsApi(subjects.members.third_party_invites),
            ServerVersionApi(),
            DirectoryQueryApi(subjects.aliases.naming),
        ]
    )
