"""Notifications to push gateways, and the meaning of their responses."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest

from hs.core.events import event_types
from hs.core.ids import RoomID
from hs.services.push.pushers.delivery import DeliveryResult, Push, Pusher
from hs.services.push.pushers.push_gateway import PushGateway
from hs.services.rooms.append.drafts import Draft
from hs.settings.sections.push import PushSettings
from hs.storage.database import Database
from hs.storage.push import pushers as storage
from hs.storage.push.pushers import PusherKey
from tests.support.composition import SETTINGS
from tests.support.pushing import (
    AWAY,
    URL,
    Answer,
    FakeGateway,
    PushScene,
    invite_from_outside,
    open_pushing,
)
from tests.support.rooms import ALICE, BOB, CAROL, member


@attrs.define(eq=False)
class GatewayScene:
    """Bob's pusher, whose notifications a test delivers, and the recorded requests."""

    pushing: PushScene
    room_id: RoomID

    @property
    def http(self) -> FakeGateway:
        return self.pushing.gateway

    @property
    def gateway(self) -> PushGateway:
        return self.pushing.unread.services.pushers.gateway

    async def push(
        self, content: Any = None, event_type: str = event_types.MESSAGE
    ) -> DeliveryResult:
        """Send an event as Alice, and deliver the notification to Bob."""
        body = content or {"msgtype": "m.text", "body": "hello"}
        await self.pushing.world.append(self.room_id, Draft(event_type, ALICE, body))
        return await self.deliver()

    async def deliver(self) -> DeliveryResult:
        """Deliver Bob's last queued notification."""
        await self.pushing.unread.settle()
        return await self.gateway.deliver(await self.pusher(), (await self.queued())[-1])

    async def queued(self) -> list[Push]:
        database = self.pushing.world.database
        return await database.read(storage.list_queued, BOB, 0, 100)

    async def pusher(self) -> Pusher:
        key = PusherKey(BOB, "org.example.app", "key")
        record = await self.pushing.world.database.read(storage.find, key)
        assert record is not None
        return Pusher.of(record)


@asynccontextmanager
async def open_gateway(
    database: Database, settings: PushSettings | None = None, **options: Any
) -> AsyncIterator[GatewayScene]:
    all_settings = attrs.evolve(SETTINGS, push=settings or PushSettings())
    async with open_pushing(database, all_settings, is_sending=False) as pushing:
        world = pushing.world
        room_id = await world.create_room(ALICE)
        await world.append(room_id, member(ALICE, "join", displayname="Alice A."))
        for user_id in (BOB, CAROL):
            await world.join(room_id, user_id)
        await pushing.set_pusher(BOB, data={"url": URL, "brand": "x", **options})
        yield GatewayScene(pushing, room_id)


async def test_notification_has_all_fields_by_default(database: Database) -> None:
    async with open_gateway(database) as scene:
        await scene.pushing.world.set_state(scene.room_id, ALICE, "m.room.name", {"name": "Den"})
        alias = {"alias": "#den:test.example"}
        await scene.pushing.world.set_state(scene.room_id, ALICE, "m.room.canonical_alias", alias)

        result = await scene.push({"body": "hi", "m.mentions": {"user_ids": [BOB]}})

        [notification] = scene.http.sent
        [push] = await scene.queued()
        set_s = (await scene.pusher()).set_ms // 1000
        assert result is DeliveryResult.DELIVERED
        assert scene.http.urls == [URL]
        assert notification == {
            "id": push.event_id,
            "event_id": push.event_id,
            "room_id": scene.room_id,
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


async def test_silent_notifications_have_low_priority(sqlite_database: Database) -> None:
    async with open_gateway(sqlite_database) as scene:
        await scene.push()
        await scene.push({"algorithm": "m.megolm.v1.aes-sha2"}, event_types.ENCRYPTED)

        assert [notification["prio"] for notification in scene.http.sent] == ["low", "high"]
        assert scene.http.sent[0]["devices"][0]["tweaks"] == {}


async def test_content_is_left_out_if_configured(sqlite_database: Database) -> None:
    async with open_gateway(sqlite_database, PushSettings(include_content=False)) as scene:
        await scene.push()

        assert "content" not in scene.http.sent[0]
        assert scene.http.sent[0]["type"] == "m.room.message"


async def test_event_id_only_format_has_only_ids(sqlite_database: Database) -> None:
    async with open_gateway(sqlite_database, format="event_id_only") as scene:
        await scene.push()

        [notification] = scene.http.sent
        assert notification.keys() == {"event_id", "room_id", "prio", "counts", "devices"}
        assert notification["devices"][0].keys() == {"app_id", "pushkey", "pushkey_ts", "data"}
        assert notification["devices"][0]["data"] == {"brand": "x", "format": "event_id_only"}


async def test_notification_of_an_invite_names_the_user_as_target(
    sqlite_database: Database,
) -> None:
    async with open_gateway(sqlite_database) as scene:
        room_id = await scene.pushing.world.create_room(ALICE, invite=[BOB])

        await scene.deliver()

        [notification] = scene.http.sent
        assert notification["room_id"] == room_id
        assert notification["user_is_target"] is True
        assert notification["membership"] == "invite"
        # Invites count as unread.
        assert notification["counts"] == {"unread": 1}


async def test_invite_to_a_room_of_another_server_has_the_names_of_its_stripped_state(
    database: Database,
) -> None:
    async with open_gateway(database) as scene:
        room_id = await invite_from_outside(scene.pushing.world, BOB, "Tea", "Ada")

        await scene.deliver()

        [notification] = scene.http.sent
        assert notification["room_id"] == room_id
        assert notification["room_name"] == "Tea"
        assert notification["sender_display_name"] == "Ada"


@pytest.mark.parametrize(("by_room", "count"), [(True, 1), (False, 2)])
async def test_unread_count_is_of_rooms_or_messages(
    sqlite_database: Database, by_room: bool, count: int
) -> None:
    settings = PushSettings(group_unread_count_by_room=by_room)
    async with open_gateway(sqlite_database, settings) as scene:
        await scene.push()
        await scene.push()

        assert scene.http.sent[-1]["counts"] == {"unread": count}


async def test_read_or_redacted_events_are_not_sent(database: Database) -> None:
    async with open_gateway(database) as scene:
        await scene.push()
        [first] = await scene.queued()
        world = scene.pushing.world
        await world.redact(scene.room_id, ALICE, world.seen[-1][1].event_id)  # type: ignore[arg-type]  # a row holds text
        redacted = await scene.deliver()
        await scene.push()
        last = world.seen[-1][1].event_id
        await scene.pushing.unread.read(BOB, scene.room_id, last)  # type: ignore[arg-type]  # a row holds text
        sent_before = len(scene.http.sent)
        read = await scene.deliver()

        assert first.seq == 1
        assert (redacted, read) == (DeliveryResult.DELIVERED, DeliveryResult.DELIVERED)
        assert len(scene.http.sent) == sent_before == 2


async def test_badge_is_sent_only_if_it_changed(database: Database) -> None:
    async with open_gateway(database) as scene:
        pusher = await scene.pusher()
        first = await scene.gateway.deliver_badge(pusher, None)
        again = await scene.gateway.deliver_badge(pusher, first)
        await scene.push()
        changed = await scene.gateway.deliver_badge(pusher, again)

        assert (first, again, changed) == (0, 0, 1)
        badges = [sent["counts"] for sent in scene.http.sent if "event_id" not in sent]
        assert badges == [{"unread": 0}, {"unread": 1}]


async def test_disabled_badge_count_is_never_sent(sqlite_database: Database) -> None:
    options = {"org.matrix.msc4076.disable_badge_count": True}
    async with open_gateway(sqlite_database, None, **options) as scene:
        await scene.push()
        shown = await scene.gateway.deliver_badge(await scene.pusher(), None)

        assert shown is None
        assert ["counts" in notification for notification in scene.http.sent] == [False]


@pytest.mark.parametrize(
    ("status", "body", "result"),
    [
        (200, b'{"rejected":["key"]}', DeliveryResult.GONE),
        (200, b'{"rejected":["another"]}', DeliveryResult.DELIVERED),
        (200, b'{"rejected":"key"}', DeliveryResult.DELIVERED),
        (200, b"[]", DeliveryResult.DELIVERED),
        (200, b"thank you", DeliveryResult.DELIVERED),
        (400, b"{}", DeliveryResult.REFUSED),
        (413, b"{}", DeliveryResult.REFUSED),
        (302, b"", DeliveryResult.FAILED),
        (404, b"{}", DeliveryResult.FAILED),
        (429, b"{}", DeliveryResult.FAILED),
        (502, b"", DeliveryResult.FAILED),
    ],
)
async def test_response_decides_the_result(
    sqlite_database: Database, status: int, body: bytes, result: DeliveryResult
) -> None:
    async with open_gateway(sqlite_database) as scene:
        scene.http.answer = Answer(status, body)

        assert await scene.push() is result


async def test_unreachable_gateway_is_a_failed_delivery(sqlite_database: Database) -> None:
    async with open_gateway(sqlite_database) as scene:
        scene.http.answer = AWAY

        assert await scene.push() is DeliveryResult.FAILED
