"""Keys of devices: uploaded, asked for, claimed."""

from collections import Counter
from functools import partial

import pytest
import trio

from hs.repl.streams import TO_DEVICE
from hs.storage.database import Tx
from hs.storage.devices import devices
from tests.support.devices import V3, Process, one_time_keys, plain_keys
from tests.support.rooms import ALICE, BOB, ZOE


async def test_uploaded_keys_are_given_to_others_with_the_devices_name(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE", "Alice's phone")
    tablet = await server.device(BOB, "TABLET")
    keys = {**plain_keys(ALICE, "PHONE"), "unsigned": {"device_display_name": "forged"}}

    uploaded = await server.upload(phone, device_keys=keys)
    found = await server.query(tablet, ALICE)

    assert uploaded.json == {"one_time_key_counts": {"signed_curve25519": 0}}
    assert found["device_keys"][ALICE] == {
        "PHONE": {
            **plain_keys(ALICE, "PHONE"),
            "unsigned": {"device_display_name": "Alice's phone"},
        }
    }
    assert found["failures"] == {}


@pytest.mark.parametrize(
    "wrong", [{"user_id": BOB}, {"device_id": "OTHER"}, {"user_id": None}, {"device_id": None}]
)
async def test_keys_of_another_device_are_refused(server: Process, wrong: object) -> None:
    phone = await server.device(ALICE, "PHONE")
    assert isinstance(wrong, dict)

    answer = await server.upload(phone, device_keys={**plain_keys(ALICE, "PHONE"), **wrong})

    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize("missing", ["algorithms", "keys", "signatures"])
async def test_keys_that_lack_what_they_must_have_are_refused(
    server: Process, missing: str
) -> None:
    phone = await server.device(ALICE, "PHONE")
    keys = plain_keys(ALICE, "PHONE")
    del keys[missing]

    answer = await server.upload(phone, device_keys=keys)

    assert (answer.status, answer.errcode) == (400, "M_BAD_JSON")


@pytest.mark.parametrize(
    "wrong",
    [
        {"signatures": {ALICE: "text"}},
        {"signatures": {ALICE: {"ed25519:PHONE": 1}}},
        {"signatures": {ALICE: None}},
        {"keys": {"ed25519:PHONE": None}},
    ],
)
async def test_keys_and_signatures_must_be_texts(server: Process, wrong: dict[str, object]) -> None:
    phone = await server.device(ALICE, "PHONE")

    answer = await server.upload(phone, device_keys={**plain_keys(ALICE, "PHONE"), **wrong})

    assert (answer.status, answer.errcode) == (400, "M_BAD_JSON")


@pytest.mark.parametrize(
    "others",
    [
        {"one_time_keys": {"no algorithm": "x"}},
        {"one_time_keys": {"signed_curve25519:0001": {"key": "another"}}},
        {"fallback_keys": one_time_keys(1, 2)},
    ],
)
async def test_an_upload_that_is_refused_leaves_nothing(
    server: Process, others: dict[str, object]
) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.upload(phone, one_time_keys=one_time_keys(1))
    since = (await server.sync(ALICE, "PHONE"))["next_batch"]

    answer = await server.upload(phone, device_keys=plain_keys(ALICE, "PHONE"), **others)

    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")
    assert (await server.query(phone, ALICE))["device_keys"] == {ALICE: {}}
    assert "device_lists" not in await server.sync(ALICE, "PHONE", since)


async def test_keys_that_come_with_those_of_the_device_are_counted_and_told(
    server: Process,
) -> None:
    phone = await server.device(ALICE, "PHONE")
    fallback = {"signed_curve25519:fb": {"key": "public", "fallback": True}}
    before = await server.sync(ALICE, "PHONE")

    uploads = [
        await server.upload(
            phone,
            device_keys=plain_keys(ALICE, "PHONE"),
            one_time_keys=one_time_keys(*numbers),
            fallback_keys=fallback,
        )
        for numbers in ((1, 2), (1, 2, 3))
    ]
    after = await server.sync(ALICE, "PHONE", before["next_batch"])

    assert [one.json for one in uploads] == [
        {"one_time_key_counts": {"signed_curve25519": count}} for count in (2, 3)
    ]
    assert before["device_one_time_keys_count"] == {"signed_curve25519": 0}
    assert after["device_one_time_keys_count"] == {"signed_curve25519": 3}
    assert after["device_unused_fallback_key_types"] == ["signed_curve25519"]


async def test_keys_that_are_here_already_are_counted_once(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.upload(phone, one_time_keys=one_time_keys(1, 2))
    await server.upload(phone, one_time_keys=one_time_keys(1, algorithm="other"))

    uploaded = await server.upload(
        phone,
        device_keys=plain_keys(ALICE, "PHONE"),
        one_time_keys={**one_time_keys(2, 3, 4), **one_time_keys(1, 2, algorithm="other")},
    )
    again = await server.upload(phone, one_time_keys=one_time_keys(2, 3, 4))

    counts = {"signed_curve25519": 4, "other": 2}
    assert [one.json for one in (uploaded, again)] == [{"one_time_key_counts": counts}] * 2


async def test_only_the_devices_asked_for_are_given(server: Process) -> None:
    tokens = [await server.device(ALICE, name) for name in ("A", "B")]
    for name, token in zip(("A", "B"), tokens, strict=True):
        await server.upload(token, device_keys=plain_keys(ALICE, name))

    answer = await server.client.post(
        f"{V3}/keys/query", {"device_keys": {ALICE: ["B", "C"], BOB: []}}, token=tokens[0]
    )

    assert answer.json["device_keys"] == {
        ALICE: {"B": {**plain_keys(ALICE, "B"), "unsigned": {}}},
        BOB: {},
    }


async def test_a_query_without_lists_of_devices_is_bad(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")

    answer = await server.client.post(
        f"{V3}/keys/query", {"device_keys": {ALICE: {"PHONE": []}}}, token=phone
    )

    assert (answer.status, answer.errcode) == (400, "M_BAD_JSON")


async def test_servers_that_cannot_be_asked_are_named_as_failures(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")

    found = await server.query(phone, ALICE, ZOE)
    claimed = await server.client.post(
        f"{V3}/keys/claim", {"one_time_keys": {ZOE: {"D": "signed_curve25519"}}}, token=phone
    )

    assert list(found["failures"]) == ["elsewhere.example"]
    assert list(claimed.json["failures"]) == ["elsewhere.example"]


async def test_a_device_that_logged_out_has_no_keys_left(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    tablet = await server.device(BOB, "TABLET")
    await server.upload(
        phone, device_keys=plain_keys(ALICE, "PHONE"), one_time_keys=one_time_keys(1)
    )
    await server.query(tablet, ALICE)

    await server.log_out(ALICE, "PHONE")

    assert (await server.query(tablet, ALICE))["device_keys"] == {ALICE: {}}
    assert await server.claim(tablet, ALICE, "PHONE") == []


async def test_keys_are_claimed_once_the_first_uploaded_first(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    for n in (5, 3, 4):
        await server.upload(phone, one_time_keys=one_time_keys(n))

    claimed = [await server.claim(phone, ALICE, "PHONE") for _ in range(4)]

    names = [f"signed_curve25519:{n:04}" for n in (5, 3, 4)]
    assert claimed == [[names[0]], [names[1]], [names[2]], []]


async def test_a_key_is_never_given_to_two_who_ask_at_once(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.upload(phone, one_time_keys=one_time_keys(*range(20)))
    given: list[str] = []

    async def claim() -> None:
        given.extend(await server.claim(phone, ALICE, "PHONE"))

    async with trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(claim)

    assert len(given) == 20
    assert max(Counter(given).values()) == 1


async def test_uploading_a_key_again_is_fine_unless_it_differs(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.upload(phone, one_time_keys=one_time_keys(1))

    same = await server.upload(phone, one_time_keys=one_time_keys(1, 2))
    other = await server.upload(phone, one_time_keys={"signed_curve25519:0001": {"key": "else"}})

    assert same.json == {"one_time_key_counts": {"signed_curve25519": 2}}
    assert (other.status, other.errcode) == (400, "M_INVALID_PARAM")


async def test_keys_uploaded_through_both_owners_at_once_are_here_once(server: Process) -> None:
    for round_ in range(10):
        name = f"PHONE{round_}"
        phone = await server.device(ALICE, name)
        keys = one_time_keys(*range(5))
        identity = plain_keys(ALICE, name)

        async with trio.open_nursery() as nursery:
            for _ in range(2):
                upload = partial(server.upload, phone, one_time_keys=keys, device_keys=identity)
                nursery.start_soon(upload)
                nursery.start_soon(partial(server.upload, phone, one_time_keys=keys))

        claimed = [await server.claim(phone, ALICE, name) for _ in range(6)]
        assert claimed == [[f"signed_curve25519:{n:04}"] for n in range(5)] + [[]]


async def test_keys_of_a_device_made_anew_outlive_what_comes_late(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.world.database.write(devices.delete, ALICE, ["PHONE"])
    phone = await server.device(ALICE, "PHONE")
    keys = {"device_keys": plain_keys(ALICE, "PHONE"), "one_time_keys": one_time_keys(1, 2)}
    await server.upload(phone, **keys)

    await server.updates.devices_removed(ALICE, ["PHONE"])

    assert (await server.query(phone, ALICE))["device_keys"][ALICE].keys() == {"PHONE"}
    assert await server.claim(phone, ALICE, "PHONE") == ["signed_curve25519:0001"]


async def test_asking_for_keys_that_are_not_there_tells_nobody(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.upload(phone, one_time_keys=one_time_keys(1, 2))
    for _ in range(3):
        await server.claim(phone, ALICE, "PHONE")
    before = server.world.feed.position(TO_DEVICE)

    for algorithm in ("signed_curve25519", "other"):
        assert await server.claim(phone, ALICE, "PHONE", algorithm) == []
        assert await server.claim(phone, ALICE, "GONE", algorithm) == []

    assert server.world.feed.position(TO_DEVICE) == before
    await server.upload(phone, one_time_keys=one_time_keys(3, 4))
    given = [await server.claim(phone, ALICE, "PHONE") for _ in range(3)]
    assert given == [["signed_curve25519:0003"], ["signed_curve25519:0004"], []]


async def test_keys_of_several_kinds_are_claimed_together(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    tablet = await server.device(BOB, "TABLET")
    await server.upload(phone, one_time_keys={"x:1": "a", "x:2": "b"})
    await server.upload(
        tablet, one_time_keys={"y:1": "c", "y:2": "d"}, fallback_keys={"y:f": {"fallback": True}}
    )
    wanted = {"one_time_keys": {ALICE: {"PHONE": "x"}, BOB: {"TABLET": "y", "GONE": "y"}}}

    answers = [await server.client.post(f"{V3}/keys/claim", wanted, token=phone) for _ in range(3)]

    assert [answer.json["one_time_keys"] for answer in answers] == [
        {ALICE: {"PHONE": {"x:1": "a"}}, BOB: {"TABLET": {"y:1": "c"}}},
        {ALICE: {"PHONE": {"x:2": "b"}}, BOB: {"TABLET": {"y:2": "d"}}},
        {BOB: {"TABLET": {"y:f": {"fallback": True}}}},
    ]


async def test_a_device_made_anew_has_no_keys_of_the_one_before(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.upload(phone, one_time_keys=one_time_keys(1, 2), fallback_keys=one_time_keys(3))
    # As if the process had died before the owners were told.
    await server.world.database.write(devices.delete, ALICE, ["PHONE"])

    phone = await server.device(ALICE, "PHONE")

    assert await server.claim(phone, ALICE, "PHONE") == []


async def test_a_device_cannot_leave_keys_without_end(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.upload(phone, one_time_keys={"x:1": "k" * 100_000})

    more = await server.upload(phone, one_time_keys={"x:2": "k" * 100_000})
    small = await server.upload(phone, one_time_keys=one_time_keys(1))

    assert (more.status, more.errcode) == (400, "M_INVALID_PARAM")
    assert small.json == {"one_time_key_counts": {"x": 1, "signed_curve25519": 1}}


async def test_kinds_of_keys_that_are_used_up_go_with_the_next_upload(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    for n in range(10):
        await server.upload(phone, one_time_keys={f"x{n}:1": "k"})
        assert await server.claim(phone, ALICE, "PHONE", f"x{n}") == [f"x{n}:1"]

    async def rows(tx: Tx) -> int:
        number: int = await tx.fetchval("SELECT count(*) FROM one_time_keys")
        return number

    assert await server.world.database.read(rows) == 1
    again = await server.upload(phone, one_time_keys=one_time_keys(*range(50)))
    assert again.json == {"one_time_key_counts": {"signed_curve25519": 50}}


@pytest.mark.parametrize("keys", [{"curve25519": "x"}, {"a:": "x"}, {":b": "x"}])
async def test_keys_must_be_named_by_algorithm_and_id(
    server: Process, keys: dict[str, str]
) -> None:
    phone = await server.device(ALICE, "PHONE")

    answer = await server.upload(phone, one_time_keys=keys)

    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


async def test_the_fallback_key_serves_when_no_other_is_left_and_is_told_as_used(
    server: Process,
) -> None:
    phone = await server.device(ALICE, "PHONE")
    fallback = {"signed_curve25519:fb": {"key": "public", "fallback": True}}
    await server.upload(phone, one_time_keys=one_time_keys(1), fallback_keys=fallback)
    before = await server.sync(ALICE, "PHONE")

    claimed = [(await server.claim(phone, ALICE, "PHONE"))[0] for _ in range(3)]
    after = await server.sync(ALICE, "PHONE", before["next_batch"])
    await server.upload(phone, fallback_keys=fallback)
    again = await server.sync(ALICE, "PHONE", after["next_batch"])
    await server.upload(phone, fallback_keys={"signed_curve25519:fb2": {"key": "new"}})
    renewed = await server.sync(ALICE, "PHONE", again["next_batch"])

    assert claimed == ["signed_curve25519:0001", "signed_curve25519:fb", "signed_curve25519:fb"]
    unused = "device_unused_fallback_key_types"
    assert before[unused] == ["signed_curve25519"]
    assert before["device_one_time_keys_count"] == {"signed_curve25519": 1}
    assert after[unused] == []
    assert after["device_one_time_keys_count"] == {"signed_curve25519": 0}
    assert again[unused] == []
    assert renewed[unused] == ["signed_curve25519"]


async def test_devices_asked_for_together_give_a_key_or_a_fallback_or_none(
    server: Process,
) -> None:
    tokens = [await server.device(ALICE, name) for name in ("A", "B", "C", "D")]
    fallbacks = [{f"signed_curve25519:{name}": {"key": name}} for name in ("A", "B", "C")]
    await server.upload(tokens[0], one_time_keys=one_time_keys(1), fallback_keys=fallbacks[0])
    for token, fallback in zip(tokens[1:3], fallbacks[1:], strict=True):
        await server.upload(token, fallback_keys=fallback)
    before = await server.sync(ALICE, "C")

    wanted = dict.fromkeys(("A", "B", "D"), "signed_curve25519")
    answer = await server.client.post(
        f"{V3}/keys/claim", {"one_time_keys": {ALICE: wanted}}, token=tokens[3]
    )

    assert answer.json["one_time_keys"][ALICE] == {"A": one_time_keys(1), "B": fallbacks[1]}
    assert (await server.sync(ALICE, "A"))["device_unused_fallback_key_types"] != []
    assert (await server.sync(ALICE, "B"))["device_unused_fallback_key_types"] == []
    again = await server.sync(ALICE, "C", before["next_batch"])
    assert again["device_unused_fallback_key_types"] == ["signed_curve25519"]


async def test_only_one_fallback_key_of_an_algorithm_is_taken(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")

    answer = await server.upload(phone, fallback_keys=one_time_keys(1, 2))

    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


async def test_keys_of_one_algorithm_do_not_serve_for_another(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.upload(phone, one_time_keys=one_time_keys(1, algorithm="other"))

    assert await server.claim(phone, ALICE, "PHONE") == []
    assert await server.claim(phone, ALICE, "PHONE", "other") == ["other:0001"]


async def test_a_first_sync_asked_for_twice_counts_keys_anew(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    first = await server.sync(ALICE, "PHONE")

    await server.upload(phone, one_time_keys=one_time_keys(1, 2))
    second = await server.sync(ALICE, "PHONE")

    assert first["device_one_time_keys_count"] == {"signed_curve25519": 0}
    assert second["device_one_time_keys_count"] == {"signed_curve25519": 2}
