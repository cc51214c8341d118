"""Pushers as clients set them: what is refused, what moves, what goes with whom."""

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
from hs.services.push.pushers.default_email_pushers import AllWelcomes, MailForNewcomers
from hs.services.push.pushers.pusher_cleanup import PushersOfDevices, PusherUpkeep
from hs.services.push.pushers.pusher_table import MAX_PUSHERS
from hs.services.push.pushers.unsubscribe_links import Unsubscribing
from hs.storage.accounts import threepids, users
from hs.storage.accounts.threepids import ThreepidRecord
from hs.storage.accounts.users import UserRecord
from hs.storage.database import Database
from hs.storage.devices import devices
from hs.storage.push import pushers as storage
from tests.support.pushing import URL, PushScene, open_pushing, pusher_body
from tests.support.rooms import ALICE, BOB, open_world

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


async def test_what_is_no_pusher_is_refused(sqlite_database: Database) -> None:
    async with (
        open_world(sqlite_database) as world,
        open_pushing(world, is_sending=False) as scene,
    ):
        for body, error in BAD:
            with pytest.raises(error):
                await scene.pushers.change(Requester(BOB, "PHONE"), body)

        assert await scene.pushers.of_user(BOB) == []


async def shown(scene: PushScene, user_id: Any = BOB) -> dict[str, Any]:
    """Give a user's pushers by pushkey, as clients get them."""
    found = await scene.pushers.shown_to(Requester(user_id, "PHONE"))
    return {one["pushkey"]: one for one in found}


async def test_a_pusher_is_listed_as_it_was_set(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world, is_sending=False) as scene:
        await scene.set_pusher(BOB, profile_tag="x")

        one = (await shown(scene))["key"]

        assert orjson.loads(orjson.dumps(one)) == {
            **pusher_body(),
            "profile_tag": "x",
            "org.matrix.msc3881.enabled": True,
            "org.matrix.msc3881.device_id": "PHONE",
        }


async def test_setting_again_changes_and_null_deletes(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world, is_sending=False) as scene:
        await scene.set_pusher(BOB, lang="en")
        await scene.set_pusher(BOB, lang="de")
        changed = await shown(scene)

        delete = {"kind": None, "app_id": "org.example.app", "pushkey": "key"}
        for _ in range(2):
            await scene.pushers.change(Requester(BOB, "PHONE"), delete)

        assert [one["lang"] for one in changed.values()] == ["de"]
        assert await shown(scene) == {}


async def test_a_pushkey_moves_unless_it_is_appended(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world, is_sending=False) as scene:
        await scene.set_pusher(ALICE)
        await scene.set_pusher(ALICE, app_id="org.example.other")
        await scene.set_pusher(BOB, append=True)
        both = await scene.pushers.of_user(ALICE)
        await scene.set_pusher(BOB)

        left = await scene.pushers.of_user(ALICE)

        assert len(both) == 2
        assert [one.app_id for one in left] == ["org.example.other"]


async def test_turning_another_devices_pusher_off_leaves_it_to_that_device(
    database: Database,
) -> None:
    async with open_world(database) as world, open_pushing(world, is_sending=False) as scene:
        await scene.set_pusher(BOB, device_id="PHONE")
        more = {"org.matrix.msc3881.enabled": False}
        await scene.set_pusher(BOB, "key", device_id="LAPTOP", **more)
        off = (await shown(scene))["key"]
        await scene.set_pusher(BOB, device_id="TABLET")
        taken = (await shown(scene))["key"]

        assert off["org.matrix.msc3881.enabled"] is False
        assert off["org.matrix.msc3881.device_id"] == "PHONE"
        assert taken["org.matrix.msc3881.enabled"] is True
        assert taken["org.matrix.msc3881.device_id"] == "TABLET"


async def test_pushers_go_with_their_device(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world, is_sending=False) as scene:
        await scene.set_pusher(BOB, "phone", device_id="PHONE")
        await scene.set_pusher(BOB, "laptop", device_id="LAPTOP")
        await scene.set_pusher(ALICE, "alice", device_id="PHONE")

        await PushersOfDevices(scene.table).devices_removed(BOB, ["PHONE"])

        assert list(await shown(scene)) == ["laptop"]
        assert list(await shown(scene, ALICE)) == ["alice"]


async def test_what_a_killed_process_left_is_tidied(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world, is_sending=False) as scene:
        await database.write(devices.ensure, BOB, "PHONE", None, 0)
        await scene.set_pusher(BOB, "stays", device_id="PHONE")
        await scene.set_pusher(BOB, "of a device that is gone", device_id="OLD")
        for user_id in (ALICE, BOB):
            await database.write(users.insert_user, UserRecord(user_id, None, 0))
        await database.write(users.deactivate, ALICE, False)
        await scene.set_pusher(ALICE, "of an account that is gone", device_id="")

        await PusherUpkeep(database, scene.table).tidy()

        assert list(await shown(scene)) == ["stays"]
        assert await shown(scene, ALICE) == {}


async def test_a_user_has_a_bounded_number_of_pushers(sqlite_database: Database) -> None:
    async with (
        open_world(sqlite_database) as world,
        open_pushing(world, is_sending=False) as scene,
    ):
        for number in range(MAX_PUSHERS):
            await scene.set_pusher(BOB, str(number))

        with pytest.raises(Forbidden):
            await scene.set_pusher(BOB, "one more")
        await scene.set_pusher(BOB, "7", lang="de")


async def test_mail_goes_to_the_users_own_address_only(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world, is_sending=False) as scene:
        record = ThreepidRecord("email", "bob@example.org", BOB, 0, 0)
        await database.write(threepids.insert, record)

        await scene.set_pusher(BOB, "Bob@Example.org", **EMAIL)
        with pytest.raises(ThreepidNotFound):
            await scene.set_pusher(ALICE, "bob@example.org", **EMAIL)

        assert list(await shown(scene)) == ["bob@example.org"]


async def test_only_a_whole_link_ends_a_pusher(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world, is_sending=False) as scene:
        await scene.set_pusher(BOB)
        links = Unsubscribing(scene.table, "https://hs.example/", b"secret")
        link = links.link(BOB, "org.example.app", "key")
        token = link.rpartition("=")[2]

        with pytest.raises(Forbidden):
            await links.end(ALICE, "org.example.app", "key", token)
        with pytest.raises(Forbidden):
            await links.end(BOB, "org.example.app", "key", "é" + token)
        assert list(await shown(scene)) == ["key"]
        await links.end(BOB, "org.example.app", "key", token)

        assert link.startswith("https://hs.example/_synapse/client/unsubscribe?user_id=%40bob")
        assert await shown(scene) == {}


async def test_what_waits_for_nobody_is_forgotten(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world, is_sending=False) as scene:
        room_id = await world.create_room(ALICE, join=[BOB])
        await scene.set_pusher(BOB, device_id="")
        await scene.say(room_id, ALICE)
        waiting = await database.read(storage.queued, BOB, 0, 10)
        await scene.table.delete(BOB, "org.example.app", "key")

        await PusherUpkeep(database, scene.table).tidy()

        assert len(waiting) == 1
        assert await database.read(storage.queued, BOB, 0, 10) == []


async def test_new_users_with_an_address_are_mailed(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world, is_sending=False) as scene:
        record = ThreepidRecord("email", "bob@example.org", BOB, 0, 0)
        await database.write(threepids.insert, record)
        await database.write(threepids.insert, ThreepidRecord("msisdn", "4471", BOB, 0, 0))
        welcome = AllWelcomes([MailForNewcomers(database, scene.table)])

        await welcome.arrived(BOB, is_guest=False)
        await welcome.arrived(ALICE, is_guest=False)
        set_up = await scene.pushers.of_user(BOB)
        await database.write(threepids.delete, BOB, "email", "bob@example.org")
        await PusherUpkeep(database, scene.table).tidy()

        assert [(one.kind, one.app_id, one.pushkey) for one in set_up] == [
            ("email", "m.email", "bob@example.org")
        ]
        assert await scene.pushers.of_user(ALICE) == []
        assert await scene.pushers.of_user(BOB) == []
