"""E-mail pushers: which messages are mailed, and when."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from hs.core.ids import RoomID
from hs.lib.mail.mailer import Mail, MailFault
from hs.lib.mail.templates import Templates
from hs.services.push.pushers.delivery import KEPT_MS, Pusher
from hs.services.push.pushers.email_content import NotificationEmailContent
from hs.services.push.pushers.email_pusher import EmailPusher, EmailPusherDependencies
from hs.services.push.pushers.email_schedule import FIRST_MS
from hs.services.push.pushers.unsubscribe_links import UnsubscribeLinks
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
class RecordingMailer:
    """A mailer that raises the configured faults, then records e-mails."""

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
class EmailScene:
    """Bob's e-mail pusher."""

    scene: PushScene
    line: EmailPusher
    mailer: RecordingMailer

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
async def open_email(database: Database, delay_ms: int = 0) -> AsyncIterator[EmailScene]:
    async with open_world(database) as world, open_pushing(world, is_sending=False) as scene:
        record = ThreepidRecord("email", ADDRESS, BOB, 0, 0)
        await database.write(threepids.insert, record)
        await scene.set_pusher(BOB, ADDRESS, kind="email", app_id="m.email", data={})
        stored = await database.read(storage.find, KEY)
        assert stored is not None
        links = UnsubscribeLinks(scene.table, "https://hs.example/", b"secret")
        settings = MailSettings(notif_delay_before_mail=delay_ms)
        members = scene.unread.members
        content = NotificationEmailContent(
            templates=Templates(),
            settings=settings,
            server_name="hs.example",
            unsubscribing=links,
            events=world.events,
            states=world.states,
            members=members,
        )
        mailer = RecordingMailer()
        tools = EmailPusherDependencies(
            database=database,
            positions=scene.positions,
            writer=scene.table,
            clock=world.clock,
            counts=scene.unread.counting,
            events=world.events,
            content=content,
            mailer=mailer,
            delay_ms=delay_ms,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(scene.positions.run)
            yield EmailScene(scene, EmailPusher(Pusher.of(stored), tools), mailer)
            scene.positions.stop()


async def test_all_unread_messages_are_one_email(database: Database) -> None:
    async with open_email(database) as email:
        den = await email.room("Den")
        for body in ("one", "two"):
            await email.scene.say(den, ALICE, body)
        await email.scene.say(await email.room("Attic"), ALICE, "three")

        with trio.fail_after(WAIT_S):
            await email.line.work()

        [mail] = email.mailer.mails
        assert mail.to == ADDRESS
        assert mail.subject == "[Matrix] New messages in Den and other rooms"
        assert [mail.text.count(body) for body in ("one", "two", "three")] == [1, 1, 1]
        assert mail.headers["List-Unsubscribe"].startswith("<https://hs.example/_synapse/client/")
        assert await email.position() == 3


async def test_read_messages_are_left_out(database: Database) -> None:
    async with open_email(database) as email:
        den = await email.room("Den")
        read = await email.scene.say(den, ALICE, "read")
        await email.scene.unread.read(BOB, den, read)

        with trio.fail_after(WAIT_S):
            await email.line.work()
            silent = email.mailer.subjects()
            await email.scene.say(den, ALICE, "unread")
            await email.line.work()

        assert silent == []
        assert email.mailer.subjects() == [f"[Matrix] {ALICE} wrote to you in Den"]


async def test_email_about_a_room_delays_the_next_about_that_room_only(database: Database) -> None:
    async with open_email(database) as email, trio.open_nursery() as nursery:
        den, attic = await email.room("Den"), await email.room("Attic")
        await email.scene.say(den, ALICE, "one")
        with trio.fail_after(WAIT_S):
            await email.line.work()
        await email.scene.say(den, ALICE, "two")
        nursery.start_soon(email.line.work)

        await email.scene.say(attic, ALICE, "three")
        [*_, push] = await database.read(storage.list_queued, BOB, 0, 10)
        email.line.add(push)
        with trio.fail_after(WAIT_S):
            while len(email.mailer.mails) < 2:  # noqa: ASYNC110  the mailer sets no event
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()

        throttles = await database.read(storage.list_throttles, KEY)
        assert email.mailer.subjects() == [
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
        email.mailer.faults += [MailFault("greylisted", temporary=True)] * 2
        await email.scene.say(await email.room("Den"), ALICE)

        with trio.fail_after(WAIT_S):
            await email.line.work()

        assert len(email.mailer.mails) == 1


@pytest.mark.parametrize("is_late", [True, False])
async def test_email_is_skipped_if_refused_or_too_late(
    sqlite_database: Database, is_late: bool
) -> None:
    async with open_email(sqlite_database) as email:
        email.mailer.faults.append(MailFault("no such user", temporary=is_late))
        await email.scene.say(await email.room("Den"), ALICE)
        if is_late:
            email.scene.world.clock.advance(KEPT_MS + 1)

        with trio.fail_after(WAIT_S):
            await email.line.work()

        assert email.mailer.mails == []
        assert await email.position() == 1


async def test_pusher_is_deleted_with_its_address(database: Database) -> None:
    async with open_email(database) as email:
        await database.write(threepids.delete, BOB, "email", ADDRESS)
        await email.scene.say(await email.room("Den"), ALICE)

        with trio.fail_after(WAIT_S):
            await email.line.work()

        assert email.mailer.mails == []
        assert email.line.is_over
        assert await database.read(storage.find, KEY) is None


async def test_email_about_an_invite_says_so(sqlite_database: Database) -> None:
    async with open_email(sqlite_database) as email:
        room_id = await email.scene.world.create_room(ALICE, invite=[BOB])
        await email.scene.unread.settle()

        with trio.fail_after(WAIT_S):
            await email.line.work()

        [mail] = email.mailer.mails
        assert mail.subject == f"[Matrix] {ALICE} invites you to chat"
        assert "You are invited." in mail.text
        assert f"https://matrix.to/#/{room_id}" in mail.text
