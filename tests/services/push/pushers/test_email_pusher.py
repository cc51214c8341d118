"""E-mail pushers: which messages are mailed, and when."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from hs.core.ids import RoomID
from hs.services.push.pushers.delivery import KEPT_MS
from hs.services.push.pushers.email_schedule import FIRST_MS
from hs.storage.accounts import threepids
from hs.storage.accounts.threepids import ThreepidRecord
from hs.storage.database import Database
from hs.storage.push import pushers as storage
from hs.storage.push.pushers import PusherKey
from tests.support.pushing import WITH_EMAIL, PushScene, invite_from_outside, open_pushing
from tests.support.rooms import ALICE, BOB
from tests.support.servers.smtp import MailBox, open_mail_box, plain_of

ADDRESS = "bob@example.org"
KEY = PusherKey(BOB, "m.email", ADDRESS)
WAIT_S = 60.0


GREYLISTED, NO_SUCH_USER = "451 4.7.1 greylisted", "550 5.1.1 no such user"


@attrs.frozen(eq=False)
class EmailScene:
    """Bob's e-mail pusher and his mail box."""

    scene: PushScene
    box: MailBox

    async def room(self, name: str) -> RoomID:
        world = self.scene.world
        room_id = await world.create_room(ALICE)
        await world.set_state(room_id, ALICE, "m.room.name", {"name": name})
        await world.join(room_id, BOB)
        return room_id

    def subjects(self) -> list[str]:
        return [message["Subject"] for message in self.box.messages]

    async def position(self) -> int | None:
        """Return the position of the pusher, or None if it was deleted."""
        record = await self.scene.world.database.read(storage.find, KEY)
        return None if record is None else record.position

    async def work(self) -> None:
        """Send e-mails until no notification waits, or the pusher is deleted."""
        database = self.scene.world.database
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.scene.run_sending)
            with trio.fail_after(WAIT_S):
                while (position := await self.position()) is not None:
                    if not await database.read(storage.list_queued, BOB, position, 1):
                        break
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_email(database: Database) -> AsyncIterator[EmailScene]:
    async with open_mail_box() as box:
        email = attrs.evolve(WITH_EMAIL.email, smtp_host="127.0.0.1", smtp_port=box.port)
        settings = attrs.evolve(WITH_EMAIL, email=email)
        async with open_pushing(database, settings, is_sending=False) as scene:
            record = ThreepidRecord("email", ADDRESS, BOB, 0, 0)
            await database.write(threepids.insert, record)
            await scene.set_pusher(BOB, ADDRESS, kind="email", app_id="m.email", data={})
            yield EmailScene(scene, box)


async def test_all_unread_messages_are_one_email(database: Database) -> None:
    async with open_email(database) as email:
        den = await email.room("Den")
        for body in ("one", "two"):
            await email.scene.say(den, ALICE, body)
        await email.scene.say(await email.room("Attic"), ALICE, "three")

        await email.work()

        [mail] = email.box.messages
        assert mail["To"] == ADDRESS
        assert mail["Subject"] == "[Matrix] New messages in Den and other rooms"
        assert [plain_of(mail).count(body) for body in ("one", "two", "three")] == [1, 1, 1]
        assert mail["List-Unsubscribe"].startswith("<https://test.example/_synapse/client/")
        assert await email.position() == 3


async def test_read_messages_are_left_out(database: Database) -> None:
    async with open_email(database) as email:
        den = await email.room("Den")
        read = await email.scene.say(den, ALICE, "read")
        await email.scene.unread.read(BOB, den, read)

        await email.work()
        silent = email.subjects()
        await email.scene.say(den, ALICE, "unread")
        await email.work()

        assert silent == []
        assert email.subjects() == [f"[Matrix] {ALICE} wrote to you in Den"]


async def test_email_about_a_room_delays_the_next_about_that_room_only(database: Database) -> None:
    async with open_email(database) as email, trio.open_nursery() as nursery:
        den, attic = await email.room("Den"), await email.room("Attic")
        nursery.start_soon(email.scene.run_sending)
        await email.scene.say(den, ALICE, "one")
        await email.box.wait_for(1)
        await email.scene.say(den, ALICE, "two")

        await email.scene.say(attic, ALICE, "three")
        await email.box.wait_for(2)
        with trio.fail_after(WAIT_S):
            while await email.position() != 3:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()

        throttles = await database.read(storage.list_throttles, KEY)
        assert email.subjects() == [
            f"[Matrix] {ALICE} wrote to you in Den",
            "[Matrix] New messages in Attic and other rooms",
        ]
        assert {throttle.room_id: throttle.throttle_ms > FIRST_MS for throttle in throttles} == {
            den: True,
            attic: False,
        }


async def test_email_is_retried_after_a_temporary_fault(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hs.services.push.pushers.email_pusher.FIRST_PAUSE_S", 0.01)
    async with open_email(sqlite_database) as email:
        email.box.answers += [GREYLISTED] * 2
        await email.scene.say(await email.room("Den"), ALICE)

        await email.work()

        assert email.box.answers == []
        assert len(email.box.messages) == 1


@pytest.mark.parametrize("is_late", [True, False])
async def test_email_is_skipped_if_refused_or_too_late(
    sqlite_database: Database, is_late: bool
) -> None:
    async with open_email(sqlite_database) as email:
        email.box.answers.append(GREYLISTED if is_late else NO_SUCH_USER)
        await email.scene.say(await email.room("Den"), ALICE)
        if is_late:
            email.scene.world.clock.advance(KEPT_MS + 1)

        await email.work()

        assert email.box.messages == []
        assert await email.position() == 1


async def test_pusher_is_deleted_with_its_address(database: Database) -> None:
    async with open_email(database) as email:
        await database.write(threepids.delete, BOB, "email", ADDRESS)
        den = await email.room("Den")
        await email.scene.say(den, ALICE)

        await email.work()
        await email.scene.say(den, ALICE)
        await email.work()

        assert email.box.messages == []
        assert await database.read(storage.find, KEY) is None


async def test_email_about_an_invite_says_so(sqlite_database: Database) -> None:
    async with open_email(sqlite_database) as email:
        room_id = await email.scene.world.create_room(ALICE, invite=[BOB])
        await email.scene.unread.settle()

        await email.work()

        [mail] = email.box.messages
        assert mail["Subject"] == f"[Matrix] {ALICE} invites you to chat"
        assert "You are invited." in plain_of(mail)
        assert f"https://matrix.to/#/{room_id}" in plain_of(mail)


async def test_email_about_an_invite_to_a_room_of_another_server_names_room_and_sender(
    sqlite_database: Database,
) -> None:
    async with open_email(sqlite_database) as email:
        await invite_from_outside(email.scene.world, BOB, "Tea", "Ada")
        await email.scene.unread.settle()

        await email.work()

        [subject] = email.subjects()
        assert "Ada" in subject
        assert "Tea" in subject
