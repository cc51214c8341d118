"""Cross-signing keys and signatures: who may set them, and who sees them."""

from collections.abc import Mapping
from typing import Any

from hs.core.canonical_json import JsonObject
from tests.support.devices import PASSWORD_OF_ALL, V3, KeyPair, Process, plain_keys
from tests.support.rooms import ALICE, BOB
from tests.support.web import Answer

MASTER = KeyPair.of_user(ALICE, 1)
SELF = KeyPair.of_user(ALICE, 2)
USER = KeyPair.of_user(ALICE, 3)
PHONE = KeyPair.of_device(ALICE, "PHONE", 4)
BOBS_MASTER = KeyPair.of_user(BOB, 5)
BOBS_PHONE = KeyPair.of_device(BOB, "BOBS", 6)
OTHER = KeyPair.of_user(ALICE, 7)


def first_keys() -> JsonObject:
    return {
        "master_key": MASTER.usable_as("master"),
        "self_signing_key": MASTER.signing(SELF.usable_as("self_signing")),
        "user_signing_key": MASTER.signing(USER.usable_as("user_signing")),
    }


async def upload(server: Process, token: str, keys: JsonObject) -> Answer:
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


async def test_the_first_keys_need_no_password_and_others_see_all_but_one(
    server: Process,
) -> None:
    alice, bob = await alices_phone(server), await bobs_phone(server)

    uploaded = await upload(server, alice, first_keys())
    own, others = await server.query(alice, ALICE), await server.query(bob, ALICE)

    assert (uploaded.status, uploaded.json) == (200, {})
    assert own["master_keys"] == others["master_keys"] == {ALICE: first_keys()["master_key"]}
    assert others["self_signing_keys"] == {ALICE: first_keys()["self_signing_key"]}
    assert own["user_signing_keys"] == {ALICE: first_keys()["user_signing_key"]}
    assert others["user_signing_keys"] == {}


async def test_the_same_keys_again_need_no_password_but_other_keys_do(server: Process) -> None:
    alice = await alices_phone(server)
    await upload(server, alice, first_keys())
    other = {"master_key": OTHER.usable_as("master")}

    same = await upload(server, alice, first_keys())
    refused = await upload(server, alice, other)
    session = refused.json["session"]
    auth = {"type": "m.login.password", "password": PASSWORD_OF_ALL, "session": session}
    replaced = await upload(server, alice, {**other, "auth": auth})

    assert same.status == 200
    assert refused.status == 401
    assert refused.json["flows"] == [{"stages": ["m.login.password"]}]
    assert replaced.status == 200
    assert (await server.query(alice, ALICE))["master_keys"][ALICE] == other["master_key"]


async def test_a_key_added_later_needs_a_password(server: Process) -> None:
    alice = await alices_phone(server)
    await upload(server, alice, {"master_key": first_keys()["master_key"]})

    answer = await upload(server, alice, first_keys())

    assert answer.status == 401


async def test_only_its_owner_is_told_of_a_user_signing_key(server: Process) -> None:
    alice, _ = await alices_phone(server), await bobs_phone(server)
    await server.world.create_room(ALICE, join=[BOB])
    without = {name: key for name, key in first_keys().items() if name != "user_signing_key"}
    await upload(server, alice, without)
    since = (await server.sync(ALICE, "PHONE"))["next_batch"]
    bobs_since = (await server.sync(BOB, "BOBS"))["next_batch"]

    session = (await upload(server, alice, first_keys())).json["session"]
    auth = {"type": "m.login.password", "password": PASSWORD_OF_ALL, "session": session}
    await upload(server, alice, {**first_keys(), "auth": auth})

    told = (await server.sync(ALICE, "PHONE", since))["device_lists"]
    assert told == {"changed": [ALICE], "left": []}
    assert "device_lists" not in await server.sync(BOB, "BOBS", bobs_since)


async def test_a_password_for_some_keys_is_not_one_for_others(server: Process) -> None:
    alice = await alices_phone(server)
    await upload(server, alice, first_keys())
    session = (await upload(server, alice, {"master_key": OTHER.usable_as("master")})).json[
        "session"
    ]
    auth = {"type": "m.login.password", "password": PASSWORD_OF_ALL, "session": session}
    evil = KeyPair.of_user(ALICE, 99)

    answer = await upload(server, alice, {"master_key": evil.usable_as("master"), "auth": auth})

    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


async def test_keys_not_signed_by_the_master_key_are_refused(server: Process) -> None:
    alice = await alices_phone(server)
    unsigned = {**first_keys(), "self_signing_key": SELF.usable_as("self_signing")}
    forged = {**first_keys(), "user_signing_key": OTHER.signing(USER.usable_as("user_signing"))}
    alone = {"self_signing_key": first_keys()["self_signing_key"]}

    answers = [await upload(server, alice, keys) for keys in (unsigned, forged, alone)]

    assert [(one.status, one.errcode) for one in answers] == [
        (400, "M_INVALID_SIGNATURE"),
        (400, "M_INVALID_SIGNATURE"),
        (400, "M_MISSING_PARAM"),
    ]


async def test_malformed_keys_are_refused(server: Process) -> None:
    alice = await alices_phone(server)
    good = MASTER.usable_as("master")
    wrong: list[Any] = [
        {**good, "user_id": BOB},
        {**good, "usage": ["self_signing"]},
        {**good, "keys": {}},
        {**good, "keys": {"ed25519:x": MASTER.public}},
    ]

    answers = [await upload(server, alice, {"master_key": one}) for one in wrong]

    assert {(one.status, one.errcode) for one in answers} == {(400, "M_INVALID_PARAM")}


async def test_a_key_named_like_a_device_is_refused(server: Process) -> None:
    token = await server.device(ALICE, MASTER.public)
    await server.upload(token, device_keys=plain_keys(ALICE, MASTER.public))

    answer = await upload(server, token, {"master_key": MASTER.usable_as("master")})

    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


async def test_signatures_on_ones_own_keys_are_seen_by_all(server: Process) -> None:
    alice, bob = await alices_phone(server), await bobs_phone(server)
    await upload(server, alice, first_keys())

    failures = await sign(
        server,
        alice,
        {
            ALICE: {
                "PHONE": SELF.signing(PHONE.device_keys()),
                MASTER.public: PHONE.signing(MASTER.usable_as("master")),
            }
        },
    )
    seen = await server.query(bob, ALICE)

    assert failures == {}
    signatures = seen["device_keys"][ALICE]["PHONE"]["signatures"][ALICE]
    assert signatures.keys() == {"ed25519:PHONE", f"ed25519:{SELF.public}"}
    assert seen["master_keys"][ALICE]["signatures"][ALICE].keys() == {"ed25519:PHONE"}


async def test_the_same_signatures_again_are_no_news(server: Process) -> None:
    alice, _ = await alices_phone(server), await bobs_phone(server)
    await upload(server, alice, first_keys())
    await server.world.create_room(ALICE, join=[BOB])
    signed = {
        ALICE: {"PHONE": SELF.signing(PHONE.device_keys())},
        BOB: {BOBS_MASTER.public: USER.signing(BOBS_MASTER.usable_as("master"))},
    }
    told = []

    for _ in range(2):
        sinces = [
            (await server.sync(*one))["next_batch"] for one in ((ALICE, "PHONE"), (BOB, "BOBS"))
        ]
        await sign(server, alice, signed)
        hers = await server.sync(ALICE, "PHONE", sinces[0])
        his = await server.sync(BOB, "BOBS", sinces[1])
        told.append([one.get("device_lists", {}).get("changed") for one in (hers, his)])

    assert told == [[[ALICE, BOB], [ALICE]], [None, None]]


async def test_a_signature_on_anothers_master_key_is_seen_by_its_maker_only(
    server: Process,
) -> None:
    alice, bob = await alices_phone(server), await bobs_phone(server)
    await upload(server, alice, first_keys())
    since = (await server.sync(ALICE, "PHONE"))["next_batch"]
    bobs_since = (await server.sync(BOB, "BOBS"))["next_batch"]

    signed = {BOB: {BOBS_MASTER.public: USER.signing(BOBS_MASTER.usable_as("master"))}}
    failures = await sign(server, alice, signed)
    hers, his = await server.query(alice, BOB), await server.query(bob, BOB)

    assert failures == {}
    assert hers["master_keys"][BOB]["signatures"].keys() == {ALICE}
    assert "signatures" not in his["master_keys"][BOB]
    told = (await server.sync(ALICE, "PHONE", since))["device_lists"]
    assert told == {"changed": [BOB], "left": []}
    assert "device_lists" not in await server.sync(BOB, "BOBS", bobs_since)


async def test_what_one_viewer_is_shown_is_not_kept_for_others(server: Process) -> None:
    alice, bob = await alices_phone(server), await bobs_phone(server)
    await upload(server, alice, first_keys())
    signed = {BOB: {BOBS_MASTER.public: USER.signing(BOBS_MASTER.usable_as("master"))}}
    await sign(server, alice, signed)

    his, hers = await server.query(bob, BOB), await server.query(alice, BOB)
    his_again, hers_again = await server.query(bob, BOB), await server.query(alice, BOB)

    assert (his, hers) == (his_again, hers_again)
    assert hers["device_keys"] == his["device_keys"] != {BOB: {}}
    assert hers["master_keys"][BOB].keys() - his["master_keys"][BOB].keys() == {"signatures"}


async def test_signatures_that_are_wrong_are_named_and_the_others_stored(server: Process) -> None:
    alice = await alices_phone(server)
    await bobs_phone(server)
    await upload(server, alice, first_keys())
    changed = {**PHONE.device_keys(), "algorithms": ["other"]}

    failures = await sign(
        server,
        alice,
        {
            ALICE: {
                "PHONE": SELF.signing(changed),
                "GONE": SELF.signing(PHONE.device_keys()),
                MASTER.public: PHONE.signing(MASTER.usable_as("master")),
            },
            BOB: {BOBS_MASTER.public: OTHER.signing(BOBS_MASTER.usable_as("master"))},
            "nobody": {"x": {}},
        },
    )

    codes = {
        (user, key): error["errcode"]
        for user, keys in failures.items()
        for key, error in keys.items()
    }
    assert codes == {
        (ALICE, "PHONE"): "M_INVALID_SIGNATURE",
        (ALICE, "GONE"): "M_NOT_FOUND",
        (BOB, BOBS_MASTER.public): "M_INVALID_SIGNATURE",
        ("nobody", "x"): "M_INVALID_PARAM",
    }
    seen = await server.query(alice, ALICE)
    assert "signatures" in seen["master_keys"][ALICE]


async def test_signatures_by_replaced_keys_are_gone(server: Process) -> None:
    alice = await alices_phone(server)
    await upload(server, alice, first_keys())
    await sign(server, alice, {ALICE: {"PHONE": SELF.signing(PHONE.device_keys())}})
    renewed = KeyPair.of_user(ALICE, 8)
    keys = {"self_signing_key": MASTER.signing(renewed.usable_as("self_signing"))}

    session = (await upload(server, alice, keys)).json["session"]
    auth = {"type": "m.login.password", "password": PASSWORD_OF_ALL, "session": session}
    await upload(server, alice, {**keys, "auth": auth})

    device = (await server.query(alice, ALICE))["device_keys"][ALICE]["PHONE"]
    assert device["signatures"][ALICE].keys() == {"ed25519:PHONE"}
