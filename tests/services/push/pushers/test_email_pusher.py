"""E-mail pushers at work: what is mailed, what is left out, and when it is silent."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from hs.core.ids import RoomID
from hs.lib.mail.mailer import Mail, MailFault
from hs.lib.mail.templates import Templates
from hs.services.push.pushers.delivery import KEPT_MS, Pusher
from hs.services.push.pushers.email_content import MailContent
from hs.services.push.pushers.email_pusher import MailLine, MailTools
from hs.services.push.pushers.email_schedule import FIRST_MS
from hs.services.push.pushers.unsubscribe_links import Unsubscribing
from hs.settings.sections.mail import MailSettings
from hs.storage.accounts import threepids
from hs.storage.accounts.threepids import ThreepidRecord
from hs.storage.database import Database
from hs.storage.push import pushers as storage
from hs.storage.push.pushers import PusherKey
from tests.support.pushing import PushScene, open_pushing
from tests.support.rooms import ALICE, BOB, open_world

ADDRESS = "bob@example.org"
KEY = PusherKey(BOB, "m.email", ADDRESS)
WAIT_S = 60.0


@attrs.define(eq=False)
class KeptMails:
    """A mailer of the test's: keeps e-mails, after failing as it was told to."""

    mails: list[Mail] = attrs.Factory(list)
    faults: list[MailFault] = attrs.Factory(list)

    async def send(self, mail: Mail) -> None:
        await trio.lowlevel.checkpoint()
        if self.faults:
            raise self.faults.pop(0)
        self.mails.append(mail)

    def subjects(self) -> list[str]:
        return [mail.subject for mail in self.mails]


@attrs.define(eq=False)
class PostRoom:
    """Bob's e-mail pusher."""

    scene: PushScene
    line: MailLine
    kept: KeptMails

    async def room(self, name: str) -> RoomID:
        world = self.scene.world
        room_id = await world.create_room(ALICE)
        await world.set_state(room_id, ALICE, "m.room.name", {"name": name})
        await world.join(room_id, BOB)
        return room_id

    async def position(self) -> int:
        record = await self.scene.world.database.read(storage.find, KEY)
        assert record is not None
        return record.position


@asynccontextmanager
async def open_post_room(database: Database, delay_ms: int = 0) -> AsyncIterator[PostRoom]:
    async with open_world(database) as world, open_pushing(world, is_sending=False) as scene:
        record = ThreepidRecord("email", ADDRESS, BOB, 0, 0)
        await database.write(threepids.insert, record)
        await scene.set_pusher(BOB, ADDRESS, kind="email", app_id="m.email", data={})
        stored = await database.read(storage.find, KEY)
        assert stored is not None
        links = Unsubscribing(scene.table, "https://hs.example/", b"secret")
        settings = MailSettings(notif_delay_before_mail=delay_ms)
        members = scene.unread.members
        content = MailContent(
            Templates(), settings, "hs.example", links, world.events, world.states, members
        )
        kept = KeptMails()
        tools = MailTools(
            database,
            scene.positions,
            scene.table,
            world.clock,
            scene.unread.counting,
            world.events,
            content,
            kept,
            delay_ms,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(scene.positions.run)
            yield PostRoom(scene, MailLine(Pusher.of(stored), tools), kept)
            scene.positions.stop()


async def test_all_that_is_unread_is_one_mail(database: Database) -> None:
    async with open_post_room(database) as office:
        den = await office.room("Den")
        for body in ("one", "two"):
            await office.scene.say(den, ALICE, body)
        await office.scene.say(await office.room("Attic"), ALICE, "three")

        with trio.fail_after(WAIT_S):
            await office.line.work()

        [mail] = office.kept.mails
        assert mail.to == ADDRESS
        assert mail.subject == "[Matrix] New messages in Den and other rooms"
        assert [mail.text.count(body) for body in ("one", "two", "three")] == [1, 1, 1]
        assert mail.headers["List-Unsubscribe"].startswith("<https://hs.example/_synapse/client/")
        assert await office.position() == 3


async def test_what_was_read_is_left_out(database: Database) -> None:
    async with open_post_room(database) as office:
        den = await office.room("Den")
        read = await office.scene.say(den, ALICE, "read")
        await office.scene.unread.read(BOB, den, read)

        with trio.fail_after(WAIT_S):
            await office.line.work()
            silent = office.kept.subjects()
            await office.scene.say(den, ALICE, "unread")
            await office.line.work()

        assert silent == []
        assert office.kept.subjects() == [f"[Matrix] {ALICE} wrote to you in Den"]


async def test_a_room_is_silent_after_a_mail_and_others_are_not(database: Database) -> None:
    async with open_post_room(database) as office, trio.open_nursery() as nursery:
        den, attic = await office.room("Den"), await office.room("Attic")
        await office.scene.say(den, ALICE, "one")
        with trio.fail_after(WAIT_S):
            await office.line.work()
        await office.scene.say(den, ALICE, "two")
        nursery.start_soon(office.line.work)

        await office.scene.say(attic, ALICE, "three")
        [*_, push] = await database.read(storage.queued, BOB, 0, 10)
        office.line.add(push)
        with trio.fail_after(WAIT_S):
            while len(office.kept.mails) < 2:  # noqa: ASYNC110  the mailer is no event
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()

        throttles = await database.read(storage.throttles, KEY)
        assert office.kept.subjects() == [
            f"[Matrix] {ALICE} wrote to you in Den",
            "[Matrix] New messages in Attic and other rooms",
        ]
        assert {one.room_id: one.throttle_ms > FIRST_MS for one in throttles} == {
            den: True,
            attic: False,
        }


async def test_a_mail_that_could_not_be_sent_is_sent_later(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hs.services.push.pushers.email_pusher.FIRST_PAUSE_S", 0.01)
    async with open_post_room(sqlite_database) as office:
        office.kept.faults += [MailFault("greylisted", temporary=True)] * 2
        await office.scene.say(await office.room("Den"), ALICE)

        with trio.fail_after(WAIT_S):
            await office.line.work()

        assert len(office.kept.mails) == 1


@pytest.mark.parametrize("is_late", [True, False])
async def test_a_mail_is_given_up_when_it_is_refused_or_late(
    sqlite_database: Database, is_late: bool
) -> None:
    async with open_post_room(sqlite_database) as office:
        office.kept.faults.append(MailFault("no such user", temporary=is_late))
        await office.scene.say(await office.room("Den"), ALICE)
        if is_late:
            office.scene.world.clock.advance(KEPT_MS + 1)

        with trio.fail_after(WAIT_S):
            await office.line.work()

        assert office.kept.mails == []
        assert await office.position() == 1


async def test_a_pusher_goes_with_its_address(database: Database) -> None:
    async with open_post_room(database) as office:
        await database.write(threepids.delete, BOB, "email", ADDRESS)
        await office.scene.say(await office.room("Den"), ALICE)

        with trio.fail_after(WAIT_S):
            await office.line.work()

        assert office.kept.mails == []
        assert office.line.is_over
        assert await database.read(storage.find, KEY) is None


async def test_an_invite_says_so(sqlite_database: Database) -> None:
    async with open_post_room(sqlite_database) as office:
        room_id = await office.scene.world.create_room(ALICE, invite=[BOB])
        await office.scene.unread.settle()

        with trio.fail_after(WAIT_S):
            await office.line.work()

        [mail] = office.kept.mails
        assert mail.subject == f"[Matrix] {ALICE} invites you to chat"
        assert "You are invited." in mail.text
        assert f"https://matrix.to/#/{room_id}" in mail.text
