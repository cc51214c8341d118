"""Pushers as clients set them: validation, replacement and deletion."""

from typing import Any

import orjson
import pytest

from hs.core.errors import (
    BadJson,
    Forbidden,
    InvalidParam,
    MatrixError,
    MissingParam,
    ThreepidNotFound,
)
from hs.core.requester import Requester
from hs.services.push.pushers.default_email_pushers import DefaultEmailPushers
from hs.services.push.pushers.pusher_table import MAX_PUSHERS
from hs.storage.accounts import threepids, users
from hs.storage.accounts.threepids import ThreepidRecord
from hs.storage.accounts.users import UserRecord
from hs.storage.database import Database
from hs.storage.devices import devices
from hs.storage.push import pushers as storage
from tests.support.pushing import URL, PushScene, open_pushing, pusher_body
from tests.support.rooms import ALICE, BOB

EMAIL: dict[str, Any] = {"kind": "email", "app_id": "m.email", "data": {}}


def without(*names: str) -> dict[str, Any]:
    return {key: value for key, value in pusher_body().items() if key not in names}


BAD: list[tuple[dict[str, Any], type[MatrixError]]] = [
    (without("kind"), MissingParam),
    (without("app_id"), MissingParam),
    (without("pushkey"), MissingParam),
    (without("lang"), MissingParam),
    (without("data"), MissingParam),
    (without("app_display_name", "device_display_name"), MissingParam),
    (pusher_body(data={}), MissingParam),
    (pusher_body(data=[]), BadJson),
    (pusher_body(lang=1), BadJson),
    (pusher_body(append="yes"), BadJson),
    (pusher_body(kind="carrier pigeon"), InvalidParam),
    (pusher_body(kind=7), BadJson),
    (pusher_body("k" * 513), InvalidParam),
    (pusher_body("é" * 257), InvalidParam),
    (pusher_body(""), InvalidParam),
    (pusher_body(app_id="a" * 65), InvalidParam),
    (pusher_body(data={"url": URL, "more": "x" * 20_000}), InvalidParam),
    (pusher_body(**EMAIL), ThreepidNotFound),
    (pusher_body(**{**EMAIL, "app_id": "org.example.app"}), InvalidParam),
    *[
        (pusher_body(data={"url": url}), InvalidParam)
        for url in (
            7,
            "push.example.org",
            "ftp://push.example.org/_matrix/push/v1/notify",
            "https:///_matrix/push/v1/notify",
            "https://push.example.org/",
            "https://push.example.org/_matrix/push/v1/notify/",
            "https://me:secret@push.example.org/_matrix/push/v1/notify",
            "https://push.example.org:port/_matrix/push/v1/notify",
            "https://[push/_matrix/push/v1/notify",
            f"https://push.example.org/_matrix/push/v1/notify?{'x' * 3000}",
        )
    ],
]


async def test_invalid_pushers_are_rejected(sqlite_database: Database) -> None:
    async with open_pushing(sqlite_database, is_sending=False) as scene:
        for body, error in BAD:
            with pytest.raises(error):
                await scene.pushers.change(Requester(BOB, "PHONE"), body)

        assert await scene.pushers.of_user(BOB) == []


async def listed(scene: PushScene, user_id: Any = BOB) -> dict[str, Any]:
    """Return a user's pushers by pushkey, as clients see them."""
    pushers = await scene.pushers.shown_to(Requester(user_id, "PHONE"))
    return {pusher["pushkey"]: pusher for pusher in pushers}


async def test_pusher_is_listed_as_it_was_set(database: Database) -> None:
    async with open_pushing(database, is_sending=False) as scene:
        await scene.set_pusher(BOB, profile_tag="x")

        pusher = (await listed(scene))["key"]

        assert orjson.loads(orjson.dumps(pusher)) == {
            **pusher_body(),
            "profile_tag": "x",
            "org.matrix.msc3881.enabled": True,
            "org.matrix.msc3881.device_id": "PHONE",
        }


async def test_setting_again_replaces_and_null_kind_deletes(database: Database) -> None:
    async with open_pushing(database, is_sending=False) as scene:
        await scene.set_pusher(BOB, lang="en")
        await scene.set_pusher(BOB, lang="de")
        changed = await listed(scene)

        delete = {"kind": None, "app_id": "org.example.app", "pushkey": "key"}
        for _ in range(2):
            await scene.pushers.change(Requester(BOB, "PHONE"), delete)

        assert [pusher["lang"] for pusher in changed.values()] == ["de"]
        assert await listed(scene) == {}


async def test_pushkey_moves_to_another_user_unless_appended(database: Database) -> None:
    async with open_pushing(database, is_sending=False) as scene:
        await scene.set_pusher(ALICE)
        await scene.set_pusher(ALICE, app_id="org.example.other")
        await scene.set_pusher(BOB, append=True)
        both = await scene.pushers.of_user(ALICE)
        await scene.set_pusher(BOB)

        left = await scene.pushers.of_user(ALICE)

        assert len(both) == 2
        assert [pusher.app_id for pusher in left] == ["org.example.other"]


async def test_disabling_a_pusher_of_another_device_keeps_its_device(
    database: Database,
) -> None:
    async with open_pushing(database, is_sending=False) as scene:
        await scene.set_pusher(BOB, device_id="PHONE")
        more = {"org.matrix.msc3881.enabled": False}
        await scene.set_pusher(BOB, "key", device_id="LAPTOP", **more)
        off = (await listed(scene))["key"]
        await scene.set_pusher(BOB, device_id="TABLET")
        taken = (await listed(scene))["key"]

        assert off["org.matrix.msc3881.enabled"] is False
        assert off["org.matrix.msc3881.device_id"] == "PHONE"
        assert taken["org.matrix.msc3881.enabled"] is True
        assert taken["org.matrix.msc3881.device_id"] == "TABLET"


async def test_pushers_are_deleted_with_their_device(database: Database) -> None:
    async with open_pushing(database, is_sending=False) as scene:
        await scene.set_pusher(BOB, "phone", device_id="PHONE")
        await scene.set_pusher(BOB, "laptop", device_id="LAPTOP")
        await scene.set_pusher(ALICE, "alice", device_id="PHONE")

        await scene.unread.services.core.sessions.watcher.devices_removed(BOB, ["PHONE"])

        assert list(await listed(scene)) == ["laptop"]
        assert list(await listed(scene, ALICE)) == ["alice"]


async def test_cleanup_deletes_pushers_of_deleted_devices_and_accounts(database: Database) -> None:
    async with open_pushing(database, is_sending=False) as scene:
        await database.write(devices.ensure, BOB, "PHONE", None, 0)
        await scene.set_pusher(BOB, "stays", device_id="PHONE")
        await scene.set_pusher(BOB, "of a deleted device", device_id="OLD")
        for user_id in (ALICE, BOB):
            await database.write(users.insert_user, UserRecord(user_id, None, 0))
        await database.write(users.deactivate, ALICE, False)
        await scene.set_pusher(ALICE, "of a deactivated account", device_id="")

        await scene.world.process.run_duty("pusher cleanup")

        assert list(await listed(scene)) == ["stays"]
        assert await listed(scene, ALICE) == {}


async def test_number_of_pushers_of_a_user_is_limited(sqlite_database: Database) -> None:
    async with open_pushing(sqlite_database, is_sending=False) as scene:
        for number in range(MAX_PUSHERS):
            await scene.set_pusher(BOB, str(number))

        with pytest.raises(Forbidden):
            await scene.set_pusher(BOB, "one more")
        await scene.set_pusher(BOB, "7", lang="de")


async def test_email_pusher_requires_an_address_of_the_user(database: Database) -> None:
    async with open_pushing(database, is_sending=False) as scene:
        record = ThreepidRecord("email", "bob@example.org", BOB, 0, 0)
        await database.write(threepids.insert, record)

        await scene.set_pusher(BOB, "Bob@Example.org", **EMAIL)
        with pytest.raises(ThreepidNotFound):
            await scene.set_pusher(ALICE, "bob@example.org", **EMAIL)

        assert list(await listed(scene)) == ["bob@example.org"]


async def test_only_a_valid_link_deletes_a_pusher(database: Database) -> None:
    async with open_pushing(database, is_sending=False) as scene:
        await scene.set_pusher(BOB)
        links = scene.unread.services.pushers.unsubscribing
        link = links.link(BOB, "org.example.app", "key")
        token = link.rpartition("=")[2]

        with pytest.raises(Forbidden):
            await links.delete_pusher(ALICE, "org.example.app", "key", token)
        with pytest.raises(Forbidden):
            await links.delete_pusher(BOB, "org.example.app", "key", "é" + token)
        assert list(await listed(scene)) == ["key"]
        await links.delete_pusher(BOB, "org.example.app", "key", token)

        assert link.startswith("https://test.example/_synapse/client/unsubscribe?user_id=%40bob")
        assert await listed(scene) == {}


async def test_cleanup_deletes_notifications_without_pusher(database: Database) -> None:
    async with open_pushing(database, is_sending=False) as scene:
        room_id = await scene.world.create_room(ALICE, join=[BOB])
        await scene.set_pusher(BOB, device_id="")
        await scene.say(room_id, ALICE)
        queued = await database.read(storage.list_queued, BOB, 0, 10)
        await scene.unread.services.core.pusher_writer.delete(BOB, "org.example.app", "key")

        await scene.world.process.run_duty("pusher cleanup")

        assert len(queued) == 1
        assert await database.read(storage.list_queued, BOB, 0, 10) == []


async def test_new_user_with_an_email_address_has_a_pusher(database: Database) -> None:
    async with open_pushing(database, is_sending=False) as scene:
        record = ThreepidRecord("email", "bob@example.org", BOB, 0, 0)
        await database.write(threepids.insert, record)
        await database.write(threepids.insert, ThreepidRecord("msisdn", "4471", BOB, 0, 0))
        welcome = DefaultEmailPushers(database, scene.unread.services.core.pusher_writer)

        await welcome.on_new_user(BOB, is_guest=False)
        await welcome.on_new_user(ALICE, is_guest=False)
        set_up = await scene.pushers.of_user(BOB)
        await database.write(threepids.delete, BOB, "email", "bob@example.org")
        await scene.world.process.run_duty("pusher cleanup")

        assert [(pusher.kind, pusher.app_id, pusher.pushkey) for pusher in set_up] == [
            ("email", "m.email", "bob@example.org")
        ]
        assert await scene.pushers.of_user(ALICE) == []
        assert await scene.pushers.of_user(BOB) == []
