"""Memberships across servers: joins, knocks, leaves and invites, in both directions."""

from hs.apis.federation.invites import InvitesApi
from hs.apis.federation.joins import MembershipHandshakesApi
from hs.apis.federation.room_complexity import RoomComplexityApi
from hs.nursery.part import Part
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.federation.client import FederationClientServices
from hs.nursery.wiring.rooms.membership import MembershipServices
from hs.nursery.wiring.rooms.rooms import Rooms
from hs.services.accounts.limits.appservice_users import UserQueries
from hs.services.federation.access.event_admission import EventAdmission
from hs.services.federation.access.server_access import ServerAccess
from hs.services.federation.access.streamed_events import StreamedEvents
from hs.services.federation.joining.candidates import ServerCandidates
from hs.services.federation.joining.complexity_limit import ComplexityLimit
from hs.services.federation.joining.federated_rooms import FederatedRooms
from hs.services.federation.joining.guest_access import GuestAccess
from hs.services.federation.joining.incoming_invites import IncomingInvites
from hs.services.federation.joining.join_responses import JoinResponses
from hs.services.federation.joining.membership_handshakes import MembershipHandshakes
from hs.services.federation.joining.outgoing_invites import OutgoingInvites
from hs.services.federation.joining.outside_changes import OutsideChanges
from hs.services.federation.joining.remote_aliases import RemoteAliases
from hs.services.federation.joining.remote_joins import RemoteJoins
from hs.services.federation.joining.room_access import HandshakeAccess
from hs.services.federation.joining.room_complexity import RoomComplexity
from hs.services.federation.joining.signed_templates import TemplateSigner
from hs.services.federation.joining.stripped_states import StrippedStates
from hs.services.federation.joining.third_party_exchange import ThirdPartyExchange
from hs.services.rooms.membership.remote_rooms import RemoteRooms
from hs.services.rooms.membership.restricted_joins import RestrictedJoins
from hs.services.rooms.read.stripped_state import StrippedState, included_state


def wire_remote_rooms(
    base: ProcessBase, federation: FederationClientServices, rooms: Rooms
) -> RemoteRooms:
    """Build joining, leaving and inviting through other servers."""
    client = federation.client
    received = StrippedState(base.database, rooms.events, rooms.states)
    candidates = ServerCandidates(base.signer.server_name, rooms.memberships, received)
    templates = TemplateSigner(base.signer, base.clock)
    stripped = _stripped_states(base, rooms)
    return FederatedRooms(
        aliases=RemoteAliases(client),
        joins=RemoteJoins(
            client=client,
            candidates=candidates,
            templates=templates,
            memberships=rooms.memberships,
            receiver=rooms.receiver,
            limit=ComplexityLimit(base.settings.remote_rooms, client, templates, base.database),
        ),
        guests=GuestAccess(client, candidates),
        changes=OutsideChanges(
            client=client,
            candidates=candidates,
            templates=templates,
            stripped=stripped,
            memberships=rooms.memberships,
            leaves=rooms.leaves,
            outside=rooms.outside,
        ),
        invites=OutgoingInvites(
            client=client,
            keys=federation.keys,
            templates=rooms.templates,
            receiver=rooms.receiver,
            stripped=stripped,
        ),
        client=client,
    )


def wire_joining(
    base: ProcessBase,
    rooms: Rooms,
    members: MembershipServices,
    queries: UserQueries,
    admission: EventAdmission,
) -> Part:
    """Build the endpoints for memberships of local users and users of other servers."""
    access = HandshakeAccess(
        rooms.auth_states, ServerAccess(base.signer.server_name, rooms.acls, rooms.servers)
    )
    stripped = _stripped_states(base, rooms)
    handshakes = MembershipHandshakes(
        signer=base.signer,
        access=access,
        templates=rooms.templates,
        receiver=rooms.receiver,
        restricted=RestrictedJoins(rooms.memberships),
        events=rooms.events,
    )
    responses = JoinResponses(
        base.signer.server_name, rooms.states, rooms.graph, StreamedEvents(rooms.events)
    )
    invites = IncomingInvites(
        signer=base.signer,
        database=base.database,
        settings=base.settings.rooms,
        access=access,
        memberships=rooms.memberships,
        checker=rooms.checker,
        stripped=stripped,
        permissions=members.invites,
        limits=members.limits,
        queries=queries,
        outside=rooms.outside,
        admission=admission,
    )
    exchange = ThirdPartyExchange(access, members.third_party_invites)
    return Part(
        endpoints=[
            MembershipHandshakesApi(handshakes, responses, stripped),
            InvitesApi(invites, exchange),
            RoomComplexityApi(RoomComplexity(base.database, access)),
        ]
    )


def _stripped_states(base: ProcessBase, rooms: Rooms) -> StrippedStates:
    return StrippedStates(
        rooms.checker, rooms.events, rooms.states, included_state(base.settings.prejoin)
    )
