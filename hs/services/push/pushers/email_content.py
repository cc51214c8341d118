"""The content of e-mails about unread messages."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import attrs

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.lib.mail.mailer import Mail
from hs.lib.mail.templates import Templates
from hs.services.push.pushers.delivery import Push, Pusher
from hs.services.push.pushers.notified_rooms import NotifiedRooms
from hs.services.push.pushers.unsubscribe_links import UnsubscribeLinks
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.stored_event import StoredEvent
from hs.settings.sections.mail import SUBJECT_VARIABLES, MailSettings

TEMPLATE: Final = "notif_mail"
MAX_BODY_CHARS: Final = 1000
MAX_HEROES: Final = 3
MATRIX_TO: Final = "https://matrix.to"
_SPACE: Final = "m.space"

Unread = tuple[Push, StoredEvent]


@attrs.frozen
class _Room:
    """A room with its unread messages; `is_named` is whether it has a name or an alias."""

    room_id: RoomID
    title: str
    is_named: bool
    is_space: bool
    unread: Sequence[Unread]

    @property
    def is_invite(self) -> bool:
        return all(stored.event.type == event_types.MEMBER for _, stored in self.unread)


@attrs.frozen(eq=False)
class NotificationEmailContent:
    """Renders e-mails."""

    _templates: Templates
    _settings: MailSettings
    _server_name: str
    _unsubscribing: UnsubscribeLinks
    _rooms: NotifiedRooms
    _members: Memberships

    async def write(self, pusher: Pusher, unread: Sequence[Unread], reason: Push) -> Mail:
        """Render the e-mail about unread messages; `reason` is the one that made it due."""
        rooms = [
            await self._room(RoomID(room_id), pusher.user_id, of_room)
            for room_id, of_room in _by_room(unread, reason.room_id).items()
        ]
        names = await self._names(unread, pusher.user_id)
        subject = self._subject(rooms, names)
        key = pusher.key
        link = self._unsubscribing.link(pusher.user_id, key.app_id, key.pushkey)
        values: dict[str, Any] = {
            "app_name": self._settings.app_name,
            "server_name": self._server_name,
            "user_display_name": await self._own_name(rooms[0].room_id, pusher.user_id),
            "summary_text": subject,
            "unsubscribe_link": link,
            "rooms": [self._room_values(room, names) for room in rooms],
            "reason": {
                "room_id": reason.room_id,
                "room_name": rooms[0].title,
                "received_at": reason.added_ms,
                "delay_before_mail_ms": self._settings.notif_delay_before_mail,
            },
        }
        return Mail(
            to=key.pushkey,
            subject=subject,
            text=self._templates.render(f"{TEMPLATE}.txt", **values),
            html=self._templates.render(f"{TEMPLATE}.html", **values),
            headers={
                "List-Unsubscribe": f"<{link}>",
                "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
            },
        )

    async def _room(self, room_id: RoomID, user_id: UserID, unread: Sequence[Unread]) -> _Room:
        texts = partial(self._rooms.text, room_id, user_id)
        name = await texts((event_types.NAME, ""), "name")
        name = name or await texts((event_types.CANONICAL_ALIAS, ""), "alias")
        room_type = await texts(event_types.CREATE_KEY, "type")
        title = name or await self._names_of_heroes(room_id, user_id)
        return _Room(room_id, title, bool(name), room_type == _SPACE, unread)

    async def _names_of_heroes(self, room_id: RoomID, user_id: UserID) -> str:
        heroes = await self._members.heroes(room_id, user_id)
        names = [await self._name_in(room_id, user_id, hero) for hero in heroes[:MAX_HEROES]]
        return ", ".join(names) or "a room without a name"

    async def _own_name(self, room_id: RoomID, user_id: UserID) -> str:
        name = await self._name_in(room_id, user_id, user_id)
        return name if name != user_id else user_id[1:].partition(":")[0]

    async def _name_in(self, room_id: RoomID, user_id: UserID, member: UserID) -> str:
        """Return the name of a member, as a user sees it."""
        key = (event_types.MEMBER, member)
        return await self._rooms.text(room_id, user_id, key, "displayname") or member

    async def _names(self, unread: Sequence[Unread], user_id: UserID) -> dict[tuple[str, str], str]:
        """Return the names of all senders by room and user."""
        senders = {(RoomID(push.room_id), stored.event.sender) for push, stored in unread}
        return {
            (room_id, sender): await self._name_in(room_id, user_id, sender)
            for room_id, sender in senders
        }

    def _subject(self, rooms: Sequence[_Room], names: Mapping[tuple[str, str], str]) -> str:
        subjects, first = self._settings.subjects, rooms[0]
        senders = list(
            dict.fromkeys(
                names[room.room_id, stored.event.sender]
                for room in rooms
                for _, stored in room.unread
            )
        )
        if len(rooms) > 1 and first.is_named:
            chosen = subjects.messages_in_room_and_others
        elif len(rooms) > 1:
            chosen = subjects.messages_from_person_and_others
        elif first.is_invite and first.is_space:
            chosen = subjects.invite_from_person_to_space
        elif first.is_invite:
            chosen = (
                subjects.invite_from_person_to_room
                if first.is_named
                else subjects.invite_from_person
            )
        elif len(first.unread) == 1:
            chosen = (
                subjects.message_from_person_in_room
                if first.is_named
                else subjects.message_from_person
            )
        elif first.is_named:
            chosen = subjects.messages_in_room
        elif len(senders) == 1:
            chosen = subjects.messages_from_person
        else:
            chosen = subjects.messages_from_person_and_others
        places = {
            "app": self._settings.app_name,
            "server_name": self._server_name,
            "person": senders[0],
            "room": first.title,
            "space": first.title,
        }
        return " ".join((chosen % {**SUBJECT_VARIABLES, **places}).split())

    def _room_values(self, room: _Room, names: Mapping[tuple[str, str], str]) -> dict[str, Any]:
        return {
            "title": room.title,
            "hash": _hash(room.room_id),
            "invite": room.is_invite,
            "link": self._link(room.room_id),
            "notifs": [
                {
                    "link": self._link(room.room_id, stored.event_id),
                    "ts": stored.event.origin_server_ts,
                    "messages": [_message(stored, names[room.room_id, stored.event.sender])],
                }
                for _, stored in room.unread
            ],
        }

    def _link(self, room_id: RoomID, event_id: EventID | None = None) -> str:
        base = self._settings.client_base_url.rstrip("/")
        room = f"{base}/#/{room_id}" if base == MATRIX_TO else f"{base}/#/room/{room_id}"
        return room if event_id is None else f"{room}/{event_id}"


def _by_room(unread: Sequence[Unread], first: str) -> dict[str, list[Unread]]:
    """Group unread messages by room, with the room `first` in front."""
    rooms: dict[str, list[Unread]] = {first: []}
    for push, stored in unread:
        rooms.setdefault(push.room_id, []).append((push, stored))
    return rooms


def _message(stored: StoredEvent, name: str) -> dict[str, Any]:
    event = stored.event
    body = event.content.get("body")
    text = body[:MAX_BODY_CHARS] if isinstance(body, str) else ""
    return {
        "event_type": event.type,
        "msgtype": event.content.get("msgtype"),
        "id": event.event_id,
        "ts": event.origin_server_ts,
        "is_historical": False,
        "sender_name": name,
        "sender_hash": _hash(event.sender),
        # HTML that users send is not trusted in e-mails: the template escapes the text.
        "body_text_plain": text,
        "body_text_html": text,
    }


def _hash(name: str) -> int:
    """Return the number of a colour for a room or a user."""
    return sum(name.encode()) % 3
