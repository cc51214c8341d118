"""Push notifications of a composed process to a gateway that records them."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import orjson
import trio

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.requester import Requester
from hs.lib.http_client import (
    MAX_RESPONSE_BYTES,
    NO_HEADERS,
    RESPONSE_TIMEOUT_S,
    HttpResponse,
    HttpTimedOut,
)
from hs.services.push.pushers.pushers import Pushers
from hs.services.rooms.receive.outside_memberships import OutsideMembership
from hs.settings.sections.mail import MailSettings
from hs.settings.settings import Settings
from hs.storage.database import Database
from tests.support.composition import SETTINGS
from tests.support.peers import ADMIN, History
from tests.support.rooms import World
from tests.support.unread import UnreadScene, open_unread

URL = "https://push.example.org/_matrix/push/v1/notify"
WAIT_S = 60.0
WITH_EMAIL = attrs.evolve(
    SETTINGS,
    email=MailSettings(
        enable_notifs=True, notif_from="hs <noreply@hs.example>", notif_delay_before_mail=0
    ),
)


def pusher_body(pushkey: str = "key", **more: Any) -> dict[str, Any]:
    """Return the request body to set a pusher."""
    return {
        "kind": "http",
        "app_id": "org.example.app",
        "pushkey": pushkey,
        "app_display_name": "App",
        "device_display_name": "Phone",
        "lang": "en",
        "data": {"url": URL},
        **more,
    }


@attrs.frozen
class Answer:
    """An answer of a push gateway; `status` 0 is no answer in time."""

    status: int = 200
    body: bytes = b'{"rejected":[]}'


DELIVERED, FAILED, REFUSED, AWAY = Answer(), Answer(502), Answer(400), Answer(0)
GONE = Answer(body=b'{"rejected":["key"]}')


@attrs.define(eq=False)
class FakeGateway:
    """A push gateway that records notifications and gives the configured answers."""

    sent: list[dict[str, Any]] = attrs.Factory(list)
    delivered: list[dict[str, Any]] = attrs.Factory(list)
    urls: list[str] = attrs.Factory(list)
    answers: list[Answer] = attrs.Factory(list)
    answer: Answer = DELIVERED
    _changed: trio.Event = attrs.Factory(trio.Event)

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        body: bytes | None = None,
        timeout_s: float = RESPONSE_TIMEOUT_S,
        max_bytes: int = MAX_RESPONSE_BYTES,
        redirects: int = 0,
    ) -> HttpResponse:
        """Record a notification and answer."""
        await trio.lowlevel.checkpoint()
        assert (method, headers["content-type"]) == ("POST", "application/json")
        assert body is not None
        notification = orjson.loads(body)["notification"]
        answer = await self.answer_to(notification)
        self.sent.append(notification)
        self.urls.append(url)
        if answer == DELIVERED:
            self.delivered.append(notification)
        self._changed.set()
        self._changed = trio.Event()
        if answer == AWAY:
            raise HttpTimedOut("no response")
        return HttpResponse(answer.status, {}, answer.body, url)

    async def answer_to(self, notification: Mapping[str, Any]) -> Answer:
        """Return the answer to a notification."""
        return self.answers.pop(0) if self.answers else self.answer

    def events(self, pushkey: str = "key") -> list[EventID]:
        """Return the events delivered to a pusher."""
        return [
            EventID(notification["event_id"])
            for notification in self.delivered
            if "event_id" in notification and pushkey_of(notification) == pushkey
        ]

    def badges(self) -> list[tuple[str, int]]:
        """Return the pushkeys and counts of the notifications that update badges only."""
        return [
            (pushkey_of(notification), notification["counts"]["unread"])
            for notification in self.delivered
            if "event_id" not in notification
        ]

    async def wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait until a condition on the notifications holds."""
        with trio.fail_after(WAIT_S):
            while not holds():
                await self._changed.wait()


def pushkey_of(notification: Mapping[str, Any]) -> str:
    """Return the pushkey of a notification, which has one device."""
    [device] = notification["devices"]
    pushkey: str = device["pushkey"]
    return pushkey


@attrs.frozen(eq=False)
class PushScene:
    """The pushers of a process."""

    unread: UnreadScene
    gateway: FakeGateway

    @property
    def world(self) -> World:
        """The rooms."""
        return self.unread.world

    @property
    def pushers(self) -> Pushers:
        """The pushers as users set them."""
        return self.unread.services.pushers.pushers

    async def run_sending(self) -> None:
        """Send the notifications of this process's share of the users until cancelled."""
        [name] = [
            duty.name
            for duty in self.unread.services.pushers.part.duties
            if duty.name.startswith("pushers ")
        ]
        await self.world.process.run_duty(name)

    async def set_pusher(self, user_id: UserID, pushkey: str = "key", **more: Any) -> None:
        """Set a pusher as a client does."""
        device_id = more.pop("device_id", "PHONE")
        requester = Requester(user_id, device_id)
        await self.pushers.change(requester, pusher_body(pushkey, **more))

    async def say(self, room_id: RoomID, sender: UserID, body: str = "hello") -> EventID:
        """Send a message; its push results are stored on return."""
        self.world.clock.advance(1)
        sent = await self.world.send(room_id, sender, body)
        await self.unread.settle()
        return sent.event_id


@asynccontextmanager
async def open_pushing(
    database: Database,
    settings: Settings = WITH_EMAIL,
    *,
    gateway: FakeGateway | None = None,
    is_sending: bool = True,
) -> AsyncIterator[PushScene]:
    """Start a process; without `is_sending` it delivers nothing."""
    gateway = gateway or FakeGateway()
    async with open_unread(database, settings, http=gateway) as unread:
        scene = PushScene(unread, gateway)
        async with trio.open_nursery() as nursery:
            if is_sending:
                nursery.start_soon(scene.run_sending)
            yield scene
            nursery.cancel_scope.cancel()


async def invite_from_outside(
    world: World, user_id: UserID, room_name: str, inviter_name: str
) -> RoomID:
    """Invite a user to a room of other servers that has a name; return the room."""
    history = History("11")
    history.begin()
    invite = history.add(ADMIN, event_types.MEMBER, {"membership": "invite"}, user_id)
    inviter = {"membership": "join", "displayname": inviter_name}
    stripped = [
        {"type": kind, "state_key": state_key, "sender": ADMIN, "content": content}
        for kind, state_key, content in (
            (event_types.NAME, "", {"name": room_name}),
            (event_types.MEMBER, ADMIN, inviter),
        )
    ]
    membership = OutsideMembership("11", invite.canonical, orjson.dumps(stripped))
    assert await world.process.services.core.rooms.outside.store(invite.room_id, membership)
    return invite.room_id
