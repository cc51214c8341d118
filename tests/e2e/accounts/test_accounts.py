"""Accounts of running servers: e-mail validation, auto-join, consent, locking, suspension."""

import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import attrs
import pytest
import trio

from hs.cli.register import NewUser, registration_mac
from hs.services.accounts.sessions.token_format import random_letters
from tests.support.servers.http_client import HttpClient
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import (
    SERVER_NAME,
    SHARED_SECRET,
    Cluster,
    Layout,
    running_cluster,
)
from tests.support.servers.redis import RedisServer
from tests.support.servers.smtp import MailBox, open_mail_box, plain_of
from tests.support.web import WebResponse

pytestmark = pytest.mark.process

V3 = "/_matrix/client/v3"
REGISTER = V3 + "/register"
CHANGE = V3 + "/account/password"
LOBBY = f"#lobby:{SERVER_NAME}"
LIMIT_S = 60.0
MANY = {"per_second": 1000, "burst_count": 1000}
TERMS = """
<h1>Terms of {{ version }}</h1>
{% if not public_version %}{% if has_consented %}agreed{% else %}
<form method="post" action="consent"><input type="hidden" name="u" value="{{ user }}">
<input type="hidden" name="h" value="{{ userhmac }}">
<input type="hidden" name="v" value="{{ version }}"></form>{% endif %}{% endif %}
"""


@attrs.define
class Scene:
    """A server and the mailbox of all its users; each request goes to a random process."""

    ports: list[int]
    box: MailBox
    rng: random.Random = attrs.Factory(lambda: random.Random(7))
    token: str | None = None

    async def request(self, method: str, target: str, json: Any = None, **more: Any) -> WebResponse:
        token = more.pop("token", None)
        async with HttpClient(self.rng.choice(self.ports), token) as client:
            return await client.request(method, target, json=json, **more)

    async def ask_all(self, method: str, target: str, token: str) -> list[WebResponse]:
        """Send the request to every process; return the responses."""
        responses = []
        for port in self.ports:
            async with HttpClient(port, token) as client:
                responses.append(await client.request(method, target))
        return responses

    async def link_in_email(self, number: int) -> str:
        """Wait for the e-mail with this number; return path and query of the link in it."""
        text = plain_of(await self.box.wait_for(number))
        match = re.search(r"https?://\S+", text)
        assert match is not None, text
        parts = urlsplit(match[0])
        return f"{parts.path}?{parts.query}"

    async def request_validation(self, kind: str, email: str) -> tuple[dict[str, str], str]:
        """Request a validation e-mail; return the threepid credentials and the link in it."""
        count = len(self.box.messages) + 1
        secret = random_letters(20)
        body = {"email": email, "client_secret": secret, "send_attempt": 1}
        requested = await self.request("POST", f"{V3}/{kind}/email/requestToken", body)
        assert requested.status == 200, requested.body
        credentials = {"sid": requested.json["sid"], "client_secret": secret}
        return credentials, await self.link_in_email(count)

    async def register(self, name: str) -> str:
        """Register a user with the address `name@example.org`; return the access token."""
        registration: dict[str, Any] = {"username": name, "password": "secret"}
        session = (await self.request("POST", REGISTER, registration)).json["session"]
        credentials, link = await self.request_validation("register", f"{name}@example.org")
        assert (await self.request("GET", link)).status == 200
        registration["auth"] = {
            "type": "m.login.email.identity",
            "threepid_creds": credentials,
            "session": session,
        }
        registered = await self.request("POST", REGISTER, registration)
        assert registered.status == 200, registered.body
        token: str = registered.json["access_token"]
        return token

    async def register_administrator(self) -> str:
        """Register a server administrator with the shared secret; return the access token."""
        nonce = (await self.request("GET", "/_synapse/admin/v1/register")).json["nonce"]
        user = NewUser(username="root", password="secret", is_admin=True)
        registration = {
            "nonce": nonce,
            "username": "root",
            "password": "secret",
            "admin": True,
            "mac": registration_mac(SHARED_SECRET, nonce, user),
        }
        registered = await self.request("POST", "/_synapse/admin/v1/register", registration)
        assert registered.status == 200, registered.body
        token: str = registered.json["access_token"]
        return token

    async def wait_for_status(self, token: str, target: str, status: int) -> WebResponse:
        """Wait until every process responds with a status; return the first response."""
        with trio.fail_after(LIMIT_S):
            while True:
                responses = await self.ask_all("GET", target, token)
                if all(response.status == status for response in responses):
                    return responses[0]
                await trio.sleep(0.02)


def email_and_consent_settings(box: MailBox, folder: Path) -> dict[str, Any]:
    terms = folder / "terms" / "en"
    terms.mkdir(parents=True)
    (terms / "1.0.html").write_text(TERMS)
    return {
        "email": {
            "smtp_host": "127.0.0.1",
            "smtp_port": box.port,
            "notif_from": "%(app)s <noreply@hs.test>",
        },
        "rc_3pid_validation": MANY,
        "registrations_require_3pid": ["email"],
        "enable_registration_without_verification": False,
        "auto_join_rooms": [LOBBY],
        "user_consent": {
            "version": 1.0,
            "template_dir": str(terms.parent),
            "block_events_error": "Agree first: %(consent_uri)s",
        },
    }


@asynccontextmanager
async def open_scene(
    layout: Layout, folder: Path, postgres: PostgresServer | None, redis: RedisServer | None
) -> AsyncIterator[Scene]:
    async with open_mail_box() as box:
        with running_cluster(
            layout, postgres, redis, **email_and_consent_settings(box, folder)
        ) as cluster:
            yield Scene(ports_of(cluster), box)


def ports_of(cluster: Cluster) -> list[int]:
    return cluster.ports


@pytest.mark.parametrize(
    "layout", ["T0", pytest.param("T2", marks=[pytest.mark.postgres, pytest.mark.redis])]
)
def test_account_from_registration_to_suspension(
    layout: Layout, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    postgres: PostgresServer | None = None
    redis: RedisServer | None = None
    if layout == "T2":
        postgres = request.getfixturevalue("postgres_server")
        redis = request.getfixturevalue("redis_server")

    async def scenario() -> None:
        async with open_scene(layout, tmp_path, postgres, redis) as scene:
            alice = await scene.register("alice")
            bob = await scene.register("bob")
            await agree_to_terms(scene, alice)
            await agree_to_terms(scene, bob)
            lobby = await check_auto_join(scene, alice, bob)
            await add_email_address(scene, alice)
            await reset_password(scene, alice)
            await lock_and_suspend(scene, bob, lobby)

    trio.run(scenario)


async def agree_to_terms(scene: Scene, token: str) -> None:
    room = {"name": "Talk"}
    blocked = await scene.request("POST", V3 + "/createRoom", room, token=token)
    assert (blocked.status, blocked.errcode) == (403, "M_CONSENT_NOT_GIVEN")
    link = urlsplit(blocked.json["consent_uri"])
    target = f"{link.path}?{link.query}"
    assert blocked.json["error"].endswith(blocked.json["consent_uri"])
    page = await scene.request("GET", target)
    form = dict(re.findall(rb'name="(\w)" value="([^"]+)"', page.body))
    assert set(form) == {b"u", b"h", b"v"}, page.body
    body = b"&".join(name + b"=" + value for name, value in form.items())
    assert (await scene.request("POST", link.path, body=body)).status == 200
    assert b"agreed" in (await scene.request("GET", target)).body
    with trio.fail_after(LIMIT_S):
        for port in scene.ports:
            async with HttpClient(port, token) as client:
                created = await client.post(V3 + "/createRoom", room)
                while created.status != 200:
                    created = await client.post(V3 + "/createRoom", room)


async def check_auto_join(scene: Scene, *tokens: str) -> str:
    directory_entry = await scene.request("GET", f"{V3}/directory/room/{quote(LOBBY)}")
    lobby: str = directory_entry.json["room_id"]
    for token in tokens:
        joined = (await scene.request("GET", V3 + "/joined_rooms", token=token)).json
        assert lobby in joined["joined_rooms"]
    return lobby


async def add_email_address(scene: Scene, token: str) -> None:
    path = V3 + "/account/3pid/add"
    credentials, link = await scene.request_validation("account/3pid", "al@example.org")
    challenge = await scene.request("POST", path, credentials, token=token)
    assert challenge.status == 401
    assert (await scene.request("GET", link)).status == 200
    auth = {
        "type": "m.login.password", "user": "alice", "password": "secret",
        "session": challenge.json["session"],
    }  # fmt: skip
    added = await scene.request("POST", path, {**credentials, "auth": auth}, token=token)
    assert added.status == 200, added.body
    identifier = {"type": "m.id.thirdparty", "medium": "email", "address": "AL@example.org"}
    body = {"type": "m.login.password", "identifier": identifier, "password": "secret"}
    logged_in = await scene.request("POST", V3 + "/login", body)
    assert logged_in.json["user_id"] == f"@alice:{SERVER_NAME}"


async def reset_password(scene: Scene, token: str) -> None:
    change: dict[str, Any] = {"new_password": "another"}
    session = (await scene.request("POST", CHANGE, change)).json["session"]
    credentials, link = await scene.request_validation("account/password", "alice@example.org")
    page = await scene.request("GET", link)
    assert b"<form" in page.body
    path, _, query = link.partition("?")
    assert (await scene.request("POST", path, body=query.encode())).status == 200
    auth = {"type": "m.login.email.identity", "threepid_creds": credentials, "session": session}
    changed = await scene.request("POST", CHANGE, {**change, "auth": auth})
    assert changed.status == 200, changed.body
    await scene.wait_for_status(token, V3 + "/account/whoami", 401)
    body = {"type": "m.login.password", "user": "alice", "password": "another"}
    assert (await scene.request("POST", V3 + "/login", body)).status == 200


async def lock_and_suspend(scene: Scene, token: str, lobby: str) -> None:
    root = await scene.register_administrator()
    bob = quote(f"@bob:{SERVER_NAME}")

    async def set_restriction(restriction: str, value: bool) -> None:
        action = "lock" if restriction == "locked" else "suspend"
        target = f"/_matrix/client/v1/admin/{action}/{bob}"
        changed = await scene.request("PUT", target, {restriction: value}, token=root)
        assert changed.json == {restriction: value}
        assert (await scene.request("GET", target, token=root)).json == {restriction: value}

    await set_restriction("locked", True)
    locked = await scene.wait_for_status(token, V3 + "/account/whoami", 401)
    assert (locked.errcode, locked.json["soft_logout"]) == ("M_USER_LOCKED", True)
    await set_restriction("locked", False)
    await scene.wait_for_status(token, V3 + "/account/whoami", 200)
    await set_restriction("suspended", True)
    with trio.fail_after(LIMIT_S):
        for number, port in enumerate(scene.ports):
            async with HttpClient(port, token) as client:
                room = f"{V3}/rooms/{quote(lobby)}/send/m.room.message"
                while True:
                    sent = await client.put(f"{room}/s{number}", {"body": "x", "msgtype": "m.text"})
                    if sent.status == 403:
                        break
                assert sent.errcode == "M_USER_SUSPENDED"
                assert (await client.get(V3 + "/sync?timeout=0")).status == 200
