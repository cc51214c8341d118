"""Application services that keep the keys of their users themselves. Spec: MSC3983; MSC3984."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import attrs
import orjson
import pytest

from hs.services.appservices.key_requests import CLAIM, QUERY, UNKNOWN_ROUTE_MS
from hs.settings.sections.proposals import Experiments, ProposalSettings
from hs.storage.database import Database
from tests.support.appservices import (
    GHOST,
    OTHER_GHOST,
    FakeServices,
    SentRequest,
    registration,
    settings_with,
)
from tests.support.composition import open_process
from tests.support.devices import V3, Process, plain_keys
from tests.support.rooms import ALICE, BOB, World

SIGNED: Final = "signed_curve25519"
BOTH: Final = Experiments(appservice_key_claims=True, appservice_key_queries=True)


@attrs.define(eq=False)
class Scene:
    """A process whose service answers with the given keys; Alice has a device."""

    process: Process
    services: FakeServices
    token: str
    answers: dict[str, Any] = attrs.Factory(dict)

    def asked(self, path: str) -> list[Any]:
        """Return the bodies of the requests that the service got at a path."""
        return [orjson.loads(sent.body or b"") for sent in self.services.sent if path in sent.url]

    async def claim(self, *device_ids: str) -> Any:
        """Claim keys of devices of the ghost."""
        claims = {GHOST: dict.fromkeys(device_ids, SIGNED)}
        answer = await self.process.client.post(
            f"{V3}/keys/claim", {"one_time_keys": claims}, token=self.token
        )
        assert answer.status == 200, answer.body
        return answer.json["one_time_keys"].get(GHOST, {})


@asynccontextmanager
async def open_scene(database: Database, experiments: Experiments = BOTH) -> AsyncIterator[Scene]:
    services = FakeServices()
    settings = attrs.evolve(
        settings_with(registration()),
        proposals=ProposalSettings(experimental_features=experiments),
    )
    async with open_process(database, settings, http=services) as composed:
        process = Process(World(composed), composed.client())
        scene = Scene(process, services, await process.device(ALICE, "PHONE"))

        def body(sent: SentRequest) -> bytes:
            return orjson.dumps(next((v for k, v in scene.answers.items() if k in sent.url), {}))

        services.body = body
        yield scene


async def test_key_is_claimed_from_service_if_none_was_uploaded(database: Database) -> None:
    async with open_scene(database) as scene:
        scene.answers[CLAIM] = {
            GHOST: {"D": {f"{SIGNED}:1": {"key": "a"}}, "OTHER": {f"{SIGNED}:2": {"key": "b"}}},
            ALICE: {"PHONE": {f"{SIGNED}:3": {"key": "c"}}},
        }

        claimed = await scene.claim("D")

        assert claimed == {"D": {f"{SIGNED}:1": {"key": "a"}}}
        assert scene.asked(CLAIM) == [{GHOST: {"D": [SIGNED]}}]
        (sent,) = (sent for sent in scene.services.sent if CLAIM in sent.url)
        assert sent.headers["authorization"] == "Bearer hs-irc"


async def test_uploaded_key_is_claimed_before_the_service_is_asked(database: Database) -> None:
    async with open_scene(database) as scene:
        token = await scene.process.device(GHOST, "D")
        await scene.process.upload(token, one_time_keys={f"{SIGNED}:own": {"key": "x"}})
        scene.answers[CLAIM] = {GHOST: {"E": {f"{SIGNED}:1": {"key": "a"}}}}

        claimed = await scene.claim("D", "E")

        assert claimed == {
            "D": {f"{SIGNED}:own": {"key": "x"}},
            "E": {f"{SIGNED}:1": {"key": "a"}},
        }
        assert scene.asked(CLAIM) == [{GHOST: {"E": [SIGNED]}}]


@pytest.mark.parametrize("status", [0, 500, 200])
async def test_fallback_key_is_claimed_if_the_service_has_none(
    database: Database, status: int
) -> None:
    async with open_scene(database) as scene:
        token = await scene.process.device(GHOST, "D")
        await scene.process.upload(token, fallback_keys={f"{SIGNED}:fb": {"key": "x"}})
        scene.services.answer = lambda sent: status
        scene.answers[CLAIM] = {GHOST: {"D": {"other:1": {"key": "a"}, f"{SIGNED}:2": 5}}}

        assert await scene.claim("D") == {"D": {f"{SIGNED}:fb": {"key": "x"}}}


async def test_service_without_the_route_is_not_asked_again_at_once(database: Database) -> None:
    async with open_scene(database) as scene:
        scene.services.answer = lambda sent: 404
        for _ in range(2):
            assert await scene.claim("D") == {}
        asked = len(scene.asked(CLAIM))
        scene.process.world.clock.advance(UNKNOWN_ROUTE_MS)

        await scene.claim("D")

        assert (asked, len(scene.asked(CLAIM))) == (1, 2)


async def test_keys_of_service_are_merged_device_by_device(database: Database) -> None:
    async with open_scene(database) as scene:
        token = await scene.process.device(GHOST, "D")
        await scene.process.upload(token, device_keys=plain_keys(GHOST, "D"))
        master = {"user_id": GHOST, "usage": ["master"], "keys": {}}
        scene.answers[QUERY] = {
            "device_keys": {
                GHOST: {
                    "E": plain_keys(GHOST, "E"),
                    "F": plain_keys(GHOST, "G"),
                    "H": plain_keys(OTHER_GHOST, "H"),
                },
                ALICE: {"PHONE": {"user_id": ALICE, "device_id": "PHONE"}},
            },
            "master_keys": {GHOST: master, ALICE: {"user_id": ALICE}},
            "user_signing_keys": {GHOST: master},
        }

        answer = await scene.process.query(scene.token, GHOST, ALICE, BOB)

        assert answer["device_keys"][GHOST].keys() == {"D", "E"}
        assert answer["device_keys"][ALICE] == {}
        assert answer["master_keys"] == {GHOST: master}
        assert answer["user_signing_keys"] == {}
        assert scene.asked(QUERY) == [{GHOST: []}]


async def test_services_are_asked_only_if_the_settings_say_so(database: Database) -> None:
    async with open_scene(database, Experiments()) as scene:
        await scene.claim("D")
        await scene.process.query(scene.token, GHOST)

        assert scene.services.sent == []
