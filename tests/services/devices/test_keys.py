"""Device keys: upload, query and claim."""

from collections import Counter
from functools import partial

import pytest
import trio

from hs.core.streams import TO_DEVICE
from hs.storage.database import Tx
from hs.storage.devices import devices
from tests.support.devices import V3, Process, one_time_keys, plain_keys
from tests.support.rooms import ALICE, BOB, ZOE


async def test_query_returns_uploaded_keys_with_the_device_name(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE", "Alice's phone")
    tablet = await server.device(BOB, "TABLET")
    keys = {**plain_keys(ALICE, "PHONE"), "unsigned": {"device_display_name": "forged"}}

    uploaded = await server.upload(phone, device_keys=keys)
    response = await server.query(tablet, ALICE)

    assert uploaded.json == {"one_time_key_counts": {"signed_curve25519": 0}}
    assert response["device_keys"][ALICE] == {
        "PHONE": {
            **plain_keys(ALICE, "PHONE"),
            "unsigned": {"device_display_name": "Alice's phone"},
        }
    }
    assert response["failures"] == {}


@pytest.mark.parametrize(
    "changes", [{"user_id": BOB}, {"device_id": "OTHER"}, {"user_id": None}, {"device_id": None}]
)
async def test_keys_of_another_device_are_rejected(server: Process, changes: object) -> None:
    phone = await server.device(ALICE, "PHONE")
    assert isinstance(changes, dict)

    answer = await server.upload(phone, device_keys={**plain_keys(ALICE, "PHONE"), **changes})

    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize("missing", ["algorithms", "keys", "signatures"])
async def test_device_keys_without_required_fields_are_rejected(
    server: Process, missing: str
) -> None:
    phone = await server.device(ALICE, "PHONE")
    keys = plain_keys(ALICE, "PHONE")
    del keys[missing]

    answer = await server.upload(phone, device_keys=keys)

    assert (answer.status, answer.errcode) == (400, "M_BAD_JSON")


@pytest.mark.parametrize(
    "changes",
    [
        {"signatures": {ALICE: "text"}},
        {"signatures": {ALICE: {"ed25519:PHONE": 1}}},
        {"signatures": {ALICE: None}},
        {"keys": {"ed25519:PHONE": None}},
    ],
)
async def test_keys_and_signatures_must_be_strings(
    server: Process, changes: dict[str, object]
) -> None:
    phone = await server.device(ALICE, "PHONE")

    answer = await server.upload(phone, device_keys={**plain_keys(ALICE, "PHONE"), **changes})

    assert (answer.status, answer.errcode) == (400, "M_BAD_JSON")


@pytest.mark.parametrize(
    "other_keys",
    [
        {"one_time_keys": {"no algorithm": "x"}},
        {"one_time_keys": {"signed_curve25519:0001": {"key": "another"}}},
        {"fallback_keys": one_time_keys(1, 2)},
    ],
)
async def test_rejected_upload_stores_nothing(
    server: Process, other_keys: dict[str, object]
) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.upload(phone, one_time_keys=one_time_keys(1))
    since = (await server.sync(ALICE, "PHONE"))["next_batch"]

    answer = await server.upload(phone, device_keys=plain_keys(ALICE, "PHONE"), **other_keys)

    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")
    assert (await server.query(phone, ALICE))["device_keys"] == {ALICE: {}}
    assert "device_lists" not in await server.sync(ALICE, "PHONE", since)


async def test_keys_uploaded_with_device_keys_are_counted_in_sync(
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

    assert [upload.json for upload in uploads] == [
        {"one_time_key_counts": {"signed_curve25519": count}} for count in (2, 3)
    ]
    assert before["device_one_time_keys_count"] == {"signed_curve25519": 0}
    assert after["device_one_time_keys_count"] == {"signed_curve25519": 3}
    assert after["device_unused_fallback_key_types"] == ["signed_curve25519"]


async def test_repeated_keys_are_counted_once(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.upload(phone, one_time_keys=one_time_keys(1, 2))
    await server.upload(phone, one_time_keys=one_time_keys(1, algorithm="other"))

    uploaded = await server.upload(
        phone,
        device_keys=plain_keys(ALICE, "PHONE"),
        one_time_keys={**one_time_keys(2, 3, 4), **one_time_keys(1, 2, algorithm="other")},
    )
    repeated = await server.upload(phone, one_time_keys=one_time_keys(2, 3, 4))

    counts = {"signed_curve25519": 4, "other": 2}
    assert [response.json for response in (uploaded, repeated)] == [
        {"one_time_key_counts": counts}
    ] * 2


async def test_query_returns_only_the_requested_devices(server: Process) -> None:
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


async def test_query_without_lists_of_devices_is_rejected(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")

    answer = await server.client.post(
        f"{V3}/keys/query", {"device_keys": {ALICE: {"PHONE": []}}}, token=phone
    )

    assert (answer.status, answer.errcode) == (400, "M_BAD_JSON")


async def test_unreachable_servers_are_reported_as_failures(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")

    queried = await server.query(phone, ALICE, ZOE)
    claimed = await server.client.post(
        f"{V3}/keys/claim", {"one_time_keys": {ZOE: {"D": "signed_curve25519"}}}, token=phone
    )

    assert list(queried["failures"]) == ["elsewhere.example"]
    assert list(claimed.json["failures"]) == ["elsewhere.example"]


async def test_keys_of_a_logged_out_device_are_deleted(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    tablet = await server.device(BOB, "TABLET")
    await server.upload(
        phone, device_keys=plain_keys(ALICE, "PHONE"), one_time_keys=one_time_keys(1)
    )
    await server.query(tablet, ALICE)

    await server.log_out(ALICE, "PHONE")

    assert (await server.query(tablet, ALICE))["device_keys"] == {ALICE: {}}
    assert await server.claim(tablet, ALICE, "PHONE") == []


async def test_keys_are_claimed_once_in_order_of_upload(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    for n in (5, 3, 4):
        await server.upload(phone, one_time_keys=one_time_keys(n))

    claimed = [await server.claim(phone, ALICE, "PHONE") for _ in range(4)]

    names = [f"signed_curve25519:{n:04}" for n in (5, 3, 4)]
    assert claimed == [[names[0]], [names[1]], [names[2]], []]


async def test_concurrent_claims_return_different_keys(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.upload(phone, one_time_keys=one_time_keys(*range(20)))
    claimed: list[str] = []

    async def claim() -> None:
        claimed.extend(await server.claim(phone, ALICE, "PHONE"))

    async with trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(claim)

    assert len(claimed) == 20
    assert max(Counter(claimed).values()) == 1


async def test_repeated_key_is_accepted_unless_it_differs(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.upload(phone, one_time_keys=one_time_keys(1))

    repeated = await server.upload(phone, one_time_keys=one_time_keys(1, 2))
    different = await server.upload(
        phone, one_time_keys={"signed_curve25519:0001": {"key": "else"}}
    )

    assert repeated.json == {"one_time_key_counts": {"signed_curve25519": 2}}
    assert (different.status, different.errcode) == (400, "M_INVALID_PARAM")


async def test_concurrent_uploads_through_both_owners_store_keys_once(server: Process) -> None:
    for round_ in range(10):
        device_id = f"PHONE{round_}"
        phone = await server.device(ALICE, device_id)
        keys = one_time_keys(*range(5))
        identity = plain_keys(ALICE, device_id)

        async with trio.open_nursery() as nursery:
            for _ in range(2):
                upload = partial(server.upload, phone, one_time_keys=keys, device_keys=identity)
                nursery.start_soon(upload)
                nursery.start_soon(partial(server.upload, phone, one_time_keys=keys))

        claimed = [await server.claim(phone, ALICE, device_id) for _ in range(6)]
        assert claimed == [[f"signed_curve25519:{n:04}"] for n in range(5)] + [[]]


async def test_keys_of_a_recreated_device_survive_a_late_removal(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.world.database.write(devices.delete, ALICE, ["PHONE"])
    phone = await server.device(ALICE, "PHONE")
    keys = {"device_keys": plain_keys(ALICE, "PHONE"), "one_time_keys": one_time_keys(1, 2)}
    await server.upload(phone, **keys)

    await server.updates.devices_removed(ALICE, ["PHONE"])

    assert (await server.query(phone, ALICE))["device_keys"][ALICE].keys() == {"PHONE"}
    assert await server.claim(phone, ALICE, "PHONE") == ["signed_curve25519:0001"]


async def test_claims_without_result_are_not_announced(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.upload(phone, one_time_keys=one_time_keys(1, 2))
    for _ in range(3):
        await server.claim(phone, ALICE, "PHONE")
    position = server.world.feed.position(TO_DEVICE)

    for algorithm in ("signed_curve25519", "other"):
        assert await server.claim(phone, ALICE, "PHONE", algorithm) == []
        assert await server.claim(phone, ALICE, "GONE", algorithm) == []

    assert server.world.feed.position(TO_DEVICE) == position
    await server.upload(phone, one_time_keys=one_time_keys(3, 4))
    claimed = [await server.claim(phone, ALICE, "PHONE") for _ in range(3)]
    assert claimed == [["signed_curve25519:0003"], ["signed_curve25519:0004"], []]


async def test_keys_of_several_algorithms_are_claimed_together(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    tablet = await server.device(BOB, "TABLET")
    await server.upload(phone, one_time_keys={"x:1": "a", "x:2": "b"})
    await server.upload(
        tablet, one_time_keys={"y:1": "c", "y:2": "d"}, fallback_keys={"y:f": {"fallback": True}}
    )
    body = {"one_time_keys": {ALICE: {"PHONE": "x"}, BOB: {"TABLET": "y", "GONE": "y"}}}

    answers = [await server.client.post(f"{V3}/keys/claim", body, token=phone) for _ in range(3)]

    assert [answer.json["one_time_keys"] for answer in answers] == [
        {ALICE: {"PHONE": {"x:1": "a"}}, BOB: {"TABLET": {"y:1": "c"}}},
        {ALICE: {"PHONE": {"x:2": "b"}}, BOB: {"TABLET": {"y:2": "d"}}},
        {BOB: {"TABLET": {"y:f": {"fallback": True}}}},
    ]


async def test_recreated_device_has_no_keys_of_the_deleted_one(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.upload(phone, one_time_keys=one_time_keys(1, 2), fallback_keys=one_time_keys(3))
    # As if the process had died before the owners were notified.
    await server.world.database.write(devices.delete, ALICE, ["PHONE"])

    phone = await server.device(ALICE, "PHONE")

    assert await server.claim(phone, ALICE, "PHONE") == []


async def test_total_size_of_one_time_keys_is_limited(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.upload(phone, one_time_keys={"x:1": "k" * 100_000})

    too_large = await server.upload(phone, one_time_keys={"x:2": "k" * 100_000})
    small = await server.upload(phone, one_time_keys=one_time_keys(1))

    assert (too_large.status, too_large.errcode) == (400, "M_INVALID_PARAM")
    assert small.json == {"one_time_key_counts": {"x": 1, "signed_curve25519": 1}}


async def test_exhausted_algorithms_are_deleted_by_the_next_upload(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    for n in range(10):
        await server.upload(phone, one_time_keys={f"x{n}:1": "k"})
        assert await server.claim(phone, ALICE, "PHONE", f"x{n}") == [f"x{n}:1"]

    async def rows(tx: Tx) -> int:
        number: int = await tx.fetchval("SELECT count(*) FROM one_time_keys")
        return number

    assert await server.world.database.read(rows) == 1
    uploaded = await server.upload(phone, one_time_keys=one_time_keys(*range(50)))
    assert uploaded.json == {"one_time_key_counts": {"signed_curve25519": 50}}


@pytest.mark.parametrize("keys", [{"curve25519": "x"}, {"a:": "x"}, {":b": "x"}])
async def test_key_names_must_contain_algorithm_and_id(
    server: Process, keys: dict[str, str]
) -> None:
    phone = await server.device(ALICE, "PHONE")

    answer = await server.upload(phone, one_time_keys=keys)

    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


async def test_fallback_key_is_claimed_last_and_then_reported_as_used(
    server: Process,
) -> None:
    phone = await server.device(ALICE, "PHONE")
    fallback = {"signed_curve25519:fb": {"key": "public", "fallback": True}}
    await server.upload(phone, one_time_keys=one_time_keys(1), fallback_keys=fallback)
    before = await server.sync(ALICE, "PHONE")

    claimed = [(await server.claim(phone, ALICE, "PHONE"))[0] for _ in range(3)]
    after = await server.sync(ALICE, "PHONE", before["next_batch"])
    await server.upload(phone, fallback_keys=fallback)
    after_repetition = await server.sync(ALICE, "PHONE", after["next_batch"])
    await server.upload(phone, fallback_keys={"signed_curve25519:fb2": {"key": "new"}})
    after_new_key = await server.sync(ALICE, "PHONE", after_repetition["next_batch"])

    assert claimed == ["signed_curve25519:0001", "signed_curve25519:fb", "signed_curve25519:fb"]
    unused = "device_unused_fallback_key_types"
    assert before[unused] == ["signed_curve25519"]
    assert before["device_one_time_keys_count"] == {"signed_curve25519": 1}
    assert after[unused] == []
    assert after["device_one_time_keys_count"] == {"signed_curve25519": 0}
    assert after_repetition[unused] == []
    assert after_new_key[unused] == ["signed_curve25519"]


async def test_claim_of_several_devices_returns_one_time_and_fallback_keys(
    server: Process,
) -> None:
    tokens = [await server.device(ALICE, name) for name in ("A", "B", "C", "D")]
    fallbacks = [{f"signed_curve25519:{name}": {"key": name}} for name in ("A", "B", "C")]
    await server.upload(tokens[0], one_time_keys=one_time_keys(1), fallback_keys=fallbacks[0])
    for token, fallback in zip(tokens[1:3], fallbacks[1:], strict=True):
        await server.upload(token, fallback_keys=fallback)
    before = await server.sync(ALICE, "C")

    algorithms = dict.fromkeys(("A", "B", "D"), "signed_curve25519")
    answer = await server.client.post(
        f"{V3}/keys/claim", {"one_time_keys": {ALICE: algorithms}}, token=tokens[3]
    )

    assert answer.json["one_time_keys"][ALICE] == {"A": one_time_keys(1), "B": fallbacks[1]}
    assert (await server.sync(ALICE, "A"))["device_unused_fallback_key_types"] != []
    assert (await server.sync(ALICE, "B"))["device_unused_fallback_key_types"] == []
    after = await server.sync(ALICE, "C", before["next_batch"])
    assert after["device_unused_fallback_key_types"] == ["signed_curve25519"]


async def test_second_fallback_key_of_an_algorithm_is_rejected(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")

    answer = await server.upload(phone, fallback_keys=one_time_keys(1, 2))

    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


async def test_keys_of_another_algorithm_are_not_claimed(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.upload(phone, one_time_keys=one_time_keys(1, algorithm="other"))

    assert await server.claim(phone, ALICE, "PHONE") == []
    assert await server.claim(phone, ALICE, "PHONE", "other") == ["other:0001"]


async def test_repeated_initial_sync_contains_current_key_counts(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    first = await server.sync(ALICE, "PHONE")

    await server.upload(phone, one_time_keys=one_time_keys(1, 2))
    second = await server.sync(ALICE, "PHONE")

    assert first["device_one_time_keys_count"] == {"signed_curve25519": 0}
    assert second["device_one_time_keys_count"] == {"signed_curve25519": 2}


async def test_fallback_keys_of_many_algorithms_are_limited(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    statuses = []
    for upload in range(3):
        keys = {f"algorithm{upload}_{n}:id": {"key": "x" * 1000} for n in range(50)}
        response = await server.client.post(
            f"{V3}/keys/upload", {"fallback_keys": keys}, token=phone
        )
        statuses.append((response.status, response.json.get("errcode")))

    assert statuses == [(200, None), (200, None), (400, "M_INVALID_PARAM")]


async def test_identity_keys_that_are_too_large_are_rejected(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    keys = {**plain_keys(ALICE, "PHONE"), "org.example.more": "x" * 65_536}

    response = await server.client.post(f"{V3}/keys/upload", {"device_keys": keys}, token=phone)

    assert (response.status, response.errcode) == (413, "M_TOO_LARGE")


async def test_device_in_the_path_of_an_upload_must_be_that_of_the_token(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    keys = {"device_keys": plain_keys(ALICE, "PHONE")}

    own = await server.client.post(f"{V3}/keys/upload/PHONE", keys, token=phone)
    other = await server.client.post(f"{V3}/keys/upload/TABLET", {}, token=phone)

    assert (own.status, own.json) == (200, {"one_time_key_counts": {"signed_curve25519": 0}})
    assert (other.status, other.errcode) == (400, "M_INVALID_PARAM")
