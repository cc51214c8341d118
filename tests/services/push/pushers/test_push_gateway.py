"""What push gateways are told, and what their answers mean."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import orjson
import pytest

from hs.core.events import event_types
from hs.core.ids import RoomID
from hs.lib.http_client import ANSWER_BYTES, ANSWER_S, NO_HEADERS, HttpAnswer, TimedOut
from hs.services.push.pushers.delivery import Push, Pusher, Verdict
from hs.services.push.pushers.push_gateway import GatewayPushes
from hs.services.rooms.append.drafts import Draft
from hs.settings.sections.push import PushSettings
from hs.storage.database import Database
from hs.storage.push import pushers as storage
from hs.storage.push.pushers import PusherKey
from tests.support.pushing import URL, PushScene, open_pushing
from tests.support.rooms import ALICE, BOB, CAROL, member, open_world


@attrs.define(eq=False)
class Asked:
    """A client that keeps what it was to send."""

    sent: list[dict[str, Any]] = attrs.Factory(list)
    urls: list[str] = attrs.Factory(list)
    status: int = 200
    body: bytes = b'{"rejected":[]}'
    is_away: bool = False

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        body: bytes | None = None,
        timeout_s: float = ANSWER_S,
        max_bytes: int = ANSWER_BYTES,
        redirects: int = 0,
    ) -> HttpAnswer:
        if self.is_away:
            raise TimedOut("no answer")
        assert (method, headers["content-type"]) == ("POST", "application/json")
        assert body is not None
        self.sent.append(orjson.loads(body)["notification"])
        self.urls.append(url)
        return HttpAnswer(self.status, {}, self.body, url)


@attrs.define(eq=False)
class Office:
    """Bob's pusher and what it sends."""

    scene: PushScene
    http: Asked
    gateway: GatewayPushes
    room_id: RoomID

    async def push(self, content: Any = None, event_type: str = event_types.MESSAGE) -> Verdict:
        """Have Alice send something, and deliver what waits for Bob."""
        body = content or {"msgtype": "m.text", "body": "hello"}
        await self.scene.world.append(self.room_id, Draft(event_type, ALICE, body))
        return await self.deliver()

    async def deliver(self) -> Verdict:
        """Deliver the last that waits for Bob."""
        await self.scene.unread.settle()
        return await self.gateway.deliver(await self.pusher(), (await self.waiting())[-1])

    async def waiting(self) -> list[Push]:
        database = self.scene.world.database
        return await database.read(storage.queued, BOB, 0, 100)

    async def pusher(self) -> Pusher:
        key = PusherKey(BOB, "org.example.app", "key")
        record = await self.scene.world.database.read(storage.find, key)
        assert record is not None
        return Pusher.of(record)


@asynccontextmanager
async def open_office(
    database: Database, settings: PushSettings | None = None, **options: Any
) -> AsyncIterator[Office]:
    async with open_world(database) as world, open_pushing(world, is_sending=False) as scene:
        room_id = await world.create_room(ALICE)
        await world.append(room_id, member(ALICE, "join", displayname="Alice A."))
        for user_id in (BOB, CAROL):
            await world.join(room_id, user_id)
        await scene.set_pusher(BOB, data={"url": URL, "brand": "x", **options})
        http = Asked()
        gateway = GatewayPushes(
            http,
            settings or PushSettings(),
            world.events,
            world.states,
            scene.unread.members,
            scene.unread.counting,
        )
        yield Office(scene, http, gateway, room_id)


async def test_a_message_is_told_whole(database: Database) -> None:
    async with open_office(database) as office:
        await office.scene.world.set_state(office.room_id, ALICE, "m.room.name", {"name": "Den"})
        alias = {"alias": "#den:test.example"}
        await office.scene.world.set_state(office.room_id, ALICE, "m.room.canonical_alias", alias)

        verdict = await office.push({"body": "hi", "m.mentions": {"user_ids": [BOB]}})

        [told] = office.http.sent
        [push] = await office.waiting()
        set_s = (await office.pusher()).set_ms // 1000
        assert verdict is Verdict.DONE
        assert office.http.urls == [URL]
        assert told == {
            "id": push.event_id,
            "event_id": push.event_id,
            "room_id": office.room_id,
            "type": "m.room.message",
            "sender": ALICE,
            "sender_display_name": "Alice A.",
            "room_name": "Den",
            "room_alias": "#den:test.example",
            "prio": "high",
            "content": {"body": "hi", "m.mentions": {"user_ids": [BOB]}},
            "counts": {"unread": 1},
            "devices": [
                {
                    "app_id": "org.example.app",
                    "pushkey": "key",
                    "pushkey_ts": set_s,
                    "data": {"brand": "x"},
                    "tweaks": {"sound": "default", "highlight": True},
                }
            ],
        }


async def test_what_makes_no_sound_has_time(sqlite_database: Database) -> None:
    async with open_office(sqlite_database) as office:
        await office.push()
        await office.push({"algorithm": "m.megolm.v1.aes-sha2"}, event_types.ENCRYPTED)

        assert [one["prio"] for one in office.http.sent] == ["low", "high"]
        assert office.http.sent[0]["devices"][0]["tweaks"] == {}


async def test_content_may_be_kept_back(sqlite_database: Database) -> None:
    async with open_office(sqlite_database, PushSettings(include_content=False)) as office:
        await office.push()

        assert "content" not in office.http.sent[0]
        assert office.http.sent[0]["type"] == "m.room.message"


async def test_a_pusher_that_wants_ids_gets_ids(sqlite_database: Database) -> None:
    async with open_office(sqlite_database, format="event_id_only") as office:
        await office.push()

        [told] = office.http.sent
        assert told.keys() == {"event_id", "room_id", "prio", "counts", "devices"}
        assert told["devices"][0].keys() == {"app_id", "pushkey", "pushkey_ts", "data"}
        assert told["devices"][0]["data"] == {"brand": "x", "format": "event_id_only"}


async def test_an_invite_is_told_as_about_the_user(sqlite_database: Database) -> None:
    async with open_office(sqlite_database) as office:
        room_id = await office.scene.world.create_room(ALICE, invite=[BOB])

        await office.deliver()

        [told] = office.http.sent
        assert told["room_id"] == room_id
        assert told["user_is_target"] is True
        assert told["membership"] == "invite"
        # An invite is something unread, too.
        assert told["counts"] == {"unread": 1}


@pytest.mark.parametrize(("by_room", "count"), [(True, 1), (False, 2)])
async def test_the_number_counts_rooms_or_messages(
    sqlite_database: Database, by_room: bool, count: int
) -> None:
    settings = PushSettings(group_unread_count_by_room=by_room)
    async with open_office(sqlite_database, settings) as office:
        await office.push()
        await office.push()

        assert office.http.sent[-1]["counts"] == {"unread": count}


async def test_what_was_read_or_redacted_is_not_told(database: Database) -> None:
    async with open_office(database) as office:
        await office.push()
        [first] = await office.waiting()
        world = office.scene.world
        await world.redact(office.room_id, ALICE, world.seen[-1][1].event_id)  # type: ignore[arg-type]  # a row holds text
        redacted = await office.deliver()
        await office.push()
        last = world.seen[-1][1].event_id
        await office.scene.unread.read(BOB, office.room_id, last)  # type: ignore[arg-type]  # a row holds text
        told = len(office.http.sent)
        read = await office.deliver()

        assert first.seq == 1
        assert (redacted, read) == (Verdict.DONE, Verdict.DONE)
        assert len(office.http.sent) == told == 2


async def test_the_number_is_told_when_it_is_another(database: Database) -> None:
    async with open_office(database) as office:
        pusher = await office.pusher()
        first = await office.gateway.deliver_badge(pusher, None)
        again = await office.gateway.deliver_badge(pusher, first)
        await office.push()
        told = await office.gateway.deliver_badge(pusher, again)

        assert (first, again, told) == (0, 0, 1)
        badges = [one["counts"] for one in office.http.sent if "event_id" not in one]
        assert badges == [{"unread": 0}, {"unread": 1}]


async def test_a_pusher_may_want_no_number(sqlite_database: Database) -> None:
    options = {"org.matrix.msc4076.disable_badge_count": True}
    async with open_office(sqlite_database, None, **options) as office:
        await office.push()
        shown = await office.gateway.deliver_badge(await office.pusher(), None)

        assert shown is None
        assert ["counts" in one for one in office.http.sent] == [False]


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        (200, b'{"rejected":["key"]}', Verdict.GONE),
        (200, b'{"rejected":["another"]}', Verdict.DONE),
        (200, b'{"rejected":"key"}', Verdict.DONE),
        (200, b"[]", Verdict.DONE),
        (200, b"thank you", Verdict.DONE),
        (400, b"{}", Verdict.REFUSED),
        (413, b"{}", Verdict.REFUSED),
        (302, b"", Verdict.LATER),
        (404, b"{}", Verdict.LATER),
        (429, b"{}", Verdict.LATER),
        (502, b"", Verdict.LATER),
    ],
)
async def test_answers_have_their_meaning(
    sqlite_database: Database, status: int, body: bytes, verdict: Verdict
) -> None:
    async with open_office(sqlite_database) as office:
        office.http.status, office.http.body = status, body

        assert await office.push() is verdict


async def test_no_answer_means_later(sqlite_database: Database) -> None:
    async with open_office(sqlite_database) as office:
        office.http.is_away = True

        assert await office.push() is Verdict.LATER
