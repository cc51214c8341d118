"""Cross-signing keys and signatures: checks on uploads, and visibility."""

from collections.abc import Mapping
from typing import Any

from hs.core.canonical_json import JsonObject
from tests.support.devices import PASSWORD_OF_ALL, V3, KeyPair, Process, plain_keys
from tests.support.rooms import ALICE, BOB
from tests.support.web import WebResponse

MASTER_KEY = KeyPair.of_user(ALICE, 1)
SELF_SIGNING_KEY = KeyPair.of_user(ALICE, 2)
USER_SIGNING_KEY = KeyPair.of_user(ALICE, 3)
PHONE = KeyPair.of_device(ALICE, "PHONE", 4)
BOBS_MASTER = KeyPair.of_user(BOB, 5)
BOBS_PHONE = KeyPair.of_device(BOB, "BOBS", 6)
OTHER_KEY = KeyPair.of_user(ALICE, 7)


def first_keys() -> JsonObject:
    return {
        "master_key": MASTER_KEY.usable_as("master"),
        "self_signing_key": MASTER_KEY.signing(SELF_SIGNING_KEY.usable_as("self_signing")),
        "user_signing_key": MASTER_KEY.signing(USER_SIGNING_KEY.usable_as("user_signing")),
    }


async def upload(server: Process, token: str, keys: JsonObject) -> WebResponse:
    return await server.client.post(f"{V3}/keys/device_signing/upload", keys, token=token)


async def sign(server: Process, token: str, signed: Mapping[Any, Any]) -> JsonObject:
    answer = await server.client.post(f"{V3}/keys/signatures/upload", dict(signed), token=token)
    assert answer.status == 200, answer.body
    failures: JsonObject = answer.json["failures"]
    return failures


async def alices_phone(server: Process) -> str:
    token = await server.device(ALICE, "PHONE")
    await server.upload(token, device_keys=PHONE.device_keys())
    return token


async def bobs_phone(server: Process) -> str:
    token = await server.device(BOB, "BOBS")
    await server.upload(token, device_keys=BOBS_PHONE.device_keys())
    await upload(server, token, {"master_key": BOBS_MASTER.usable_as("master")})
    return token


async def test_first_keys_need_no_password_and_user_signing_key_is_private(
    server: Process,
) -> None:
    alice, bob = await alices_phone(server), await bobs_phone(server)

    uploaded = await upload(server, alice, first_keys())
    alices_view, bobs_view = await server.query(alice, ALICE), await server.query(bob, ALICE)

    assert (uploaded.status, uploaded.json) == (200, {})
    assert (
        alices_view["master_keys"]
        == bobs_view["master_keys"]
        == {ALICE: first_keys()["master_key"]}
    )
    assert bobs_view["self_signing_keys"] == {ALICE: first_keys()["self_signing_key"]}
    assert alices_view["user_signing_keys"] == {ALICE: first_keys()["user_signing_key"]}
    assert bobs_view["user_signing_keys"] == {}


async def test_password_is_needed_to_replace_keys_but_not_to_repeat_them(server: Process) -> None:
    alice = await alices_phone(server)
    await upload(server, alice, first_keys())
    other_master = {"master_key": OTHER_KEY.usable_as("master")}

    repeated = await upload(server, alice, first_keys())
    challenge = await upload(server, alice, other_master)
    session = challenge.json["session"]
    auth = {"type": "m.login.password", "password": PASSWORD_OF_ALL, "session": session}
    replaced = await upload(server, alice, {**other_master, "auth": auth})

    assert repeated.status == 200
    assert challenge.status == 401
    assert challenge.json["flows"] == [{"stages": ["m.login.password"]}]
    assert replaced.status == 200
    assert (await server.query(alice, ALICE))["master_keys"][ALICE] == other_master["master_key"]


async def test_password_is_needed_to_add_a_key_later(server: Process) -> None:
    alice = await alices_phone(server)
    await upload(server, alice, {"master_key": first_keys()["master_key"]})

    answer = await upload(server, alice, first_keys())

    assert answer.status == 401


async def test_user_signing_key_is_announced_to_its_owner_only(server: Process) -> None:
    alice, _ = await alices_phone(server), await bobs_phone(server)
    await server.world.create_room(ALICE, join=[BOB])
    other_keys = {name: key for name, key in first_keys().items() if name != "user_signing_key"}
    await upload(server, alice, other_keys)
    since = (await server.sync(ALICE, "PHONE"))["next_batch"]
    bobs_since = (await server.sync(BOB, "BOBS"))["next_batch"]

    session = (await upload(server, alice, first_keys())).json["session"]
    auth = {"type": "m.login.password", "password": PASSWORD_OF_ALL, "session": session}
    await upload(server, alice, {**first_keys(), "auth": auth})

    device_lists = (await server.sync(ALICE, "PHONE", since))["device_lists"]
    assert device_lists == {"changed": [ALICE]}
    assert "device_lists" not in await server.sync(BOB, "BOBS", bobs_since)


async def test_uia_session_is_valid_for_the_keys_it_began_with_only(server: Process) -> None:
    alice = await alices_phone(server)
    await upload(server, alice, first_keys())
    session = (await upload(server, alice, {"master_key": OTHER_KEY.usable_as("master")})).json[
        "session"
    ]
    auth = {"type": "m.login.password", "password": PASSWORD_OF_ALL, "session": session}
    different_key = KeyPair.of_user(ALICE, 99)

    answer = await upload(
        server, alice, {"master_key": different_key.usable_as("master"), "auth": auth}
    )

    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


async def test_keys_not_signed_by_the_master_key_are_rejected(server: Process) -> None:
    alice = await alices_phone(server)
    unsigned = {**first_keys(), "self_signing_key": SELF_SIGNING_KEY.usable_as("self_signing")}
    forged = {
        **first_keys(),
        "user_signing_key": OTHER_KEY.signing(USER_SIGNING_KEY.usable_as("user_signing")),
    }
    without_master = {"self_signing_key": first_keys()["self_signing_key"]}

    answers = [await upload(server, alice, keys) for keys in (unsigned, forged, without_master)]

    assert [(answer.status, answer.errcode) for answer in answers] == [
        (400, "M_INVALID_SIGNATURE"),
        (400, "M_INVALID_SIGNATURE"),
        (400, "M_MISSING_PARAM"),
    ]


async def test_malformed_keys_are_rejected(server: Process) -> None:
    alice = await alices_phone(server)
    master = MASTER_KEY.usable_as("master")
    malformed: list[Any] = [
        {**master, "user_id": BOB},
        {**master, "usage": ["self_signing"]},
        {**master, "keys": {}},
        {**master, "keys": {"ed25519:x": MASTER_KEY.public}},
    ]

    responses = [await upload(server, alice, {"master_key": key}) for key in malformed]

    assert {(response.status, response.errcode) for response in responses} == {
        (400, "M_INVALID_PARAM")
    }


async def test_key_equal_to_a_device_id_is_rejected(server: Process) -> None:
    token = await server.device(ALICE, MASTER_KEY.public)
    await server.upload(token, device_keys=plain_keys(ALICE, MASTER_KEY.public))

    answer = await upload(server, token, {"master_key": MASTER_KEY.usable_as("master")})

    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


async def test_signatures_on_own_keys_are_visible_to_all(server: Process) -> None:
    alice, bob = await alices_phone(server), await bobs_phone(server)
    await upload(server, alice, first_keys())

    failures = await sign(
        server,
        alice,
        {
            ALICE: {
                "PHONE": SELF_SIGNING_KEY.signing(PHONE.device_keys()),
                MASTER_KEY.public: PHONE.signing(MASTER_KEY.usable_as("master")),
            }
        },
    )
    bobs_view = await server.query(bob, ALICE)

    assert failures == {}
    signatures = bobs_view["device_keys"][ALICE]["PHONE"]["signatures"][ALICE]
    assert signatures.keys() == {"ed25519:PHONE", f"ed25519:{SELF_SIGNING_KEY.public}"}
    assert bobs_view["master_keys"][ALICE]["signatures"][ALICE].keys() == {"ed25519:PHONE"}


async def test_repeated_signatures_are_not_announced(server: Process) -> None:
    alice, _ = await alices_phone(server), await bobs_phone(server)
    await upload(server, alice, first_keys())
    await server.world.create_room(ALICE, join=[BOB])
    signed = {
        ALICE: {"PHONE": SELF_SIGNING_KEY.signing(PHONE.device_keys())},
        BOB: {BOBS_MASTER.public: USER_SIGNING_KEY.signing(BOBS_MASTER.usable_as("master"))},
    }
    changed = []

    for _ in range(2):
        sinces = [
            (await server.sync(*device))["next_batch"]
            for device in ((ALICE, "PHONE"), (BOB, "BOBS"))
        ]
        await sign(server, alice, signed)
        hers = await server.sync(ALICE, "PHONE", sinces[0])
        his = await server.sync(BOB, "BOBS", sinces[1])
        changed.append(
            [response.get("device_lists", {}).get("changed") for response in (hers, his)]
        )

    assert changed == [[[ALICE, BOB], [ALICE]], [None, None]]


async def test_signature_on_another_users_master_key_is_visible_to_its_signer_only(
    server: Process,
) -> None:
    alice, bob = await alices_phone(server), await bobs_phone(server)
    await upload(server, alice, first_keys())
    since = (await server.sync(ALICE, "PHONE"))["next_batch"]
    bobs_since = (await server.sync(BOB, "BOBS"))["next_batch"]

    signed = {BOB: {BOBS_MASTER.public: USER_SIGNING_KEY.signing(BOBS_MASTER.usable_as("master"))}}
    failures = await sign(server, alice, signed)
    alices_view, bobs_view = await server.query(alice, BOB), await server.query(bob, BOB)

    assert failures == {}
    assert alices_view["master_keys"][BOB]["signatures"].keys() == {ALICE}
    assert "signatures" not in bobs_view["master_keys"][BOB]
    device_lists = (await server.sync(ALICE, "PHONE", since))["device_lists"]
    assert device_lists == {"changed": [BOB]}
    assert "device_lists" not in await server.sync(BOB, "BOBS", bobs_since)


async def test_keys_rendered_for_one_viewer_are_not_cached_for_others(server: Process) -> None:
    alice, bob = await alices_phone(server), await bobs_phone(server)
    await upload(server, alice, first_keys())
    signed = {BOB: {BOBS_MASTER.public: USER_SIGNING_KEY.signing(BOBS_MASTER.usable_as("master"))}}
    await sign(server, alice, signed)

    bobs_view, alices_view = await server.query(bob, BOB), await server.query(alice, BOB)
    bobs_view_again, alices_view_again = (
        await server.query(bob, BOB),
        await server.query(alice, BOB),
    )

    assert (bobs_view, alices_view) == (bobs_view_again, alices_view_again)
    assert alices_view["device_keys"] == bobs_view["device_keys"] != {BOB: {}}
    assert alices_view["master_keys"][BOB].keys() - bobs_view["master_keys"][BOB].keys() == {
        "signatures"
    }


async def test_invalid_signatures_are_reported_and_valid_ones_stored(server: Process) -> None:
    alice = await alices_phone(server)
    await bobs_phone(server)
    await upload(server, alice, first_keys())
    changed_keys = {**PHONE.device_keys(), "algorithms": ["other"]}

    failures = await sign(
        server,
        alice,
        {
            ALICE: {
                "PHONE": SELF_SIGNING_KEY.signing(changed_keys),
                "GONE": SELF_SIGNING_KEY.signing(PHONE.device_keys()),
                MASTER_KEY.public: PHONE.signing(MASTER_KEY.usable_as("master")),
            },
            BOB: {BOBS_MASTER.public: OTHER_KEY.signing(BOBS_MASTER.usable_as("master"))},
            "nobody": {"x": {}},
        },
    )

    errcodes = {
        (user, key): error["errcode"]
        for user, keys in failures.items()
        for key, error in keys.items()
    }
    assert errcodes == {
        (ALICE, "PHONE"): "M_INVALID_SIGNATURE",
        (ALICE, "GONE"): "M_NOT_FOUND",
        (BOB, BOBS_MASTER.public): "M_INVALID_SIGNATURE",
        ("nobody", "x"): "M_INVALID_PARAM",
    }
    alices_view = await server.query(alice, ALICE)
    assert "signatures" in alices_view["master_keys"][ALICE]


async def test_signatures_by_replaced_keys_are_deleted(server: Process) -> None:
    alice = await alices_phone(server)
    await upload(server, alice, first_keys())
    await sign(server, alice, {ALICE: {"PHONE": SELF_SIGNING_KEY.signing(PHONE.device_keys())}})
    new_key = KeyPair.of_user(ALICE, 8)
    keys = {"self_signing_key": MASTER_KEY.signing(new_key.usable_as("self_signing"))}

    session = (await upload(server, alice, keys)).json["session"]
    auth = {"type": "m.login.password", "password": PASSWORD_OF_ALL, "session": session}
    await upload(server, alice, {**keys, "auth": auth})

    device = (await server.query(alice, ALICE))["device_keys"][ALICE]["PHONE"]
    assert device["signatures"][ALICE].keys() == {"ed25519:PHONE"}
