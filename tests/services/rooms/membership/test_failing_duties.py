"""Duties that follow memberships finish what failed half-way, and skip what always fails."""

from typing import Any

import attrs
import pytest
import trio

from hs.core.ids import EventID, RoomID, UserID
from hs.core.requester import Requester
from hs.repl.entry_retries import MAX_FAILURES
from hs.services.accounts.account_data.account_data import AccountDataService
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.membership.auto_accept_invites import AutoAcceptDuty
from hs.services.rooms.membership.guest_removal import GuestRemovalDuty
from hs.services.rooms.membership.room_joins import JoinRequest, RoomJoins
from hs.settings.sections.retention import AutoAcceptSettings
from hs.settings.sections.rooms import RoomSettings
from hs.storage.database import CommitUnknown, Database, DatabaseTimeout, DatabaseUnavailable, Tx
from hs.storage.rooms import rooms
from tests.support.composition import SETTINGS
from tests.support.room_actions import Actions, open_actions
from tests.support.rooms import ALICE, BOB, CAROL

ACCEPTING = attrs.evolve(SETTINGS, auto_accept=AutoAcceptSettings(enabled=True))
FORGETTING = attrs.evolve(SETTINGS, rooms=RoomSettings(forget_rooms_on_leave=True))


def auto_accept(actions: Actions) -> AutoAcceptDuty:
    duty = actions.services.members.duties.auto_accept
    assert duty is not None
    return duty


async def invite_to_direct_chat(actions: Actions) -> RoomID:
    """Let Alice invite Bob to a direct chat."""
    room_id = await actions.world.create_room(ALICE)
    content = {"membership": "invite", "is_direct": True}
    await actions.world.append(room_id, Draft("m.room.member", ALICE, content, BOB))
    return room_id


async def test_direct_chat_is_marked_after_marking_it_failed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_actions(database, ACCEPTING) as actions:
        duty = auto_accept(actions)
        room_id = await invite_to_direct_chat(actions)

        async def time_out(*args: Any) -> None:
            raise DatabaseTimeout("slow")

        with monkeypatch.context() as patch:
            patch.setattr(AccountDataService, "put", time_out)
            with pytest.raises(DatabaseTimeout):
                await duty.accept_waiting()
        assert await actions.memberships.membership(room_id, BOB) == "join"

        await duty.accept_waiting()

        assert await actions.account_data(BOB, None, "m.direct") == {ALICE: [room_id]}


async def test_direct_chat_is_marked_after_a_join_of_unknown_outcome(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_actions(database, ACCEPTING) as actions:
        duty = auto_accept(actions)
        room_id = await invite_to_direct_chat(actions)
        join = RoomJoins.join

        async def join_and_fail(
            self: RoomJoins, requester: Requester, room_id: RoomID, request: JoinRequest
        ) -> EventID:
            await join(self, requester, room_id, request)
            raise CommitUnknown("lost")

        with monkeypatch.context() as patch:
            patch.setattr(RoomJoins, "join", join_and_fail)
            with pytest.raises(CommitUnknown):
                await duty.accept_waiting()

        await duty.accept_waiting()

        assert await actions.account_data(BOB, None, "m.direct") == {ALICE: [room_id]}


async def test_user_who_joins_without_the_duty_has_no_room_marked(database: Database) -> None:
    async with open_actions(database, ACCEPTING) as actions:
        room_id = await invite_to_direct_chat(actions)
        await actions.services.members.joins.join(Requester(BOB), room_id, JoinRequest())

        await auto_accept(actions).accept_waiting()

        assert await actions.account_data(BOB, None, "m.direct") is None


async def test_invite_that_always_fails_does_not_block_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_actions(database, ACCEPTING) as actions:
        duty = auto_accept(actions)
        failing, fine = [await actions.world.create_room(ALICE, invite=[BOB]) for _ in range(2)]
        join = RoomJoins.join

        async def time_out(
            self: RoomJoins, requester: Requester, room_id: RoomID, request: JoinRequest
        ) -> EventID:
            if room_id == failing:
                raise DatabaseTimeout("slow")
            return await join(self, requester, room_id, request)

        monkeypatch.setattr(RoomJoins, "join", time_out)
        for _ in range(MAX_FAILURES - 1):
            with pytest.raises(DatabaseTimeout):
                await duty.accept_waiting()
        await duty.accept_waiting()

        assert await actions.memberships.membership(failing, BOB) == "invite"
        assert await actions.memberships.membership(fine, BOB) == "join"


async def test_invite_outlives_a_long_absence_of_the_database(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_actions(database, ACCEPTING) as actions:
        duty = auto_accept(actions)
        room_id = await actions.world.create_room(ALICE, invite=[BOB])

        async def be_away(*args: Any) -> EventID:
            raise DatabaseUnavailable("away")

        with monkeypatch.context() as patch:
            patch.setattr(RoomJoins, "join", be_away)
            for _ in range(2 * MAX_FAILURES):
                with pytest.raises(DatabaseUnavailable):
                    await duty.accept_waiting()
        await duty.accept_waiting()

        assert await actions.memberships.membership(room_id, BOB) == "join"


async def make_guest(tx: Tx, user_id: UserID) -> None:
    await tx.execute("INSERT INTO users (user_id, created_ms, is_guest) VALUES ($1, 0, 1)", user_id)


async def test_room_whose_guests_cannot_be_removed_does_not_block_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_actions(database) as actions:
        world = actions.world
        guests = actions.services.members.duties.guest_removal
        assert guests is not None
        await database.write(make_guest, BOB)
        failing, fine = [await world.create_room(ALICE, join=[BOB]) for _ in range(2)]
        for room_id in (failing, fine):
            content = {"guest_access": "forbidden"}
            await world.set_state(room_id, ALICE, "m.room.guest_access", content)
        remove = GuestRemovalDuty.remove_guests

        async def time_out(self: GuestRemovalDuty, room_id: RoomID) -> None:
            if room_id == failing:
                raise DatabaseTimeout("slow")
            await remove(self, room_id)

        monkeypatch.setattr(GuestRemovalDuty, "remove_guests", time_out)
        for _ in range(MAX_FAILURES - 1):
            with pytest.raises(DatabaseTimeout):
                await guests.run()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(guests.run)
            with trio.fail_after(60):
                while await actions.memberships.is_joined(fine, BOB):
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

        assert await actions.memberships.is_joined(failing, BOB)


async def test_room_that_cannot_be_forgotten_does_not_block_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_actions(database, FORGETTING) as actions:
        world = actions.world
        duty = actions.services.members.duties.forget_on_leave
        assert duty is not None
        room_id = await world.create_room(ALICE, join=[BOB, CAROL])
        await world.leave(room_id, BOB)
        await world.leave(room_id, CAROL)
        forget = rooms.forget

        async def time_out(tx: Tx, user_id: str, room_id: str) -> bool:
            if user_id == BOB:
                raise DatabaseTimeout("slow")
            return await forget(tx, user_id, room_id)

        monkeypatch.setattr(rooms, "forget", time_out)
        for _ in range(MAX_FAILURES - 1):
            with pytest.raises(DatabaseTimeout):
                await duty.forget_waiting()
        await duty.forget_waiting()

        own = await actions.memberships.local_membership(room_id, CAROL)
        assert own is not None
        assert own.forgotten
