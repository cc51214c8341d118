"""Accounts of running servers: proved by e-mail, welcomed, bound to terms, locked, suspended."""

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

from hs.cli.register import NewUser, mac_of
from hs.services.accounts.sessions.token_format import random_letters
from tests.support.http_client import HttpClient
from tests.support.mail import MailBox, open_mail_box, plain_of
from tests.support.postgres import PostgresServer
from tests.support.processes import SERVER_NAME, SHARED_SECRET, Cluster, Layout, running_cluster
from tests.support.redis import RedisServer
from tests.support.web import Answer

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
    """A server whose processes are asked by chance, and the mail box of everybody."""

    ports: list[int]
    box: MailBox
    rng: random.Random = attrs.Factory(lambda: random.Random(7))
    token: str | None = None

    async def ask(self, method: str, target: str, json: Any = None, **more: Any) -> Answer:
        token = more.pop("token", None)
        async with HttpClient(self.rng.choice(self.ports), token) as client:
            return await client.ask(method, target, json=json, **more)

    async def everywhere(self, method: str, target: str, token: str) -> list[Answer]:
        """Ask each process."""
        answers = []
        for port in self.ports:
            async with HttpClient(port, token) as client:
                answers.append(await client.ask(method, target))
        return answers

    async def link(self, count: int) -> str:
        text = plain_of(await self.box.wait_for(count))
        found = re.search(r"https?://\S+", text)
        assert found is not None, text
        parts = urlsplit(found[0])
        return f"{parts.path}?{parts.query}"

    async def sent(self, kind: str, email: str) -> tuple[dict[str, str], str]:
        """Ask for an e-mail; give what names the proof, and the link in it."""
        count = len(self.box.messages) + 1
        secret = random_letters(20)
        body = {"email": email, "client_secret": secret, "send_attempt": 1}
        asked = await self.ask("POST", f"{V3}/{kind}/email/requestToken", body)
        assert asked.status == 200, asked.body
        return {"sid": asked.json["sid"], "client_secret": secret}, await self.link(count)

    async def user(self, name: str) -> str:
        """Register somebody with an address of their name; give the token."""
        wish: dict[str, Any] = {"username": name, "password": "secret"}
        session = (await self.ask("POST", REGISTER, wish)).json["session"]
        creds, link = await self.sent("register", f"{name}@example.org")
        assert (await self.ask("GET", link)).status == 200
        wish["auth"] = {
            "type": "m.login.email.identity",
            "threepid_creds": creds,
            "session": session,
        }
        done = await self.ask("POST", REGISTER, wish)
        assert done.status == 200, done.body
        token: str = done.json["access_token"]
        return token

    async def administrator(self) -> str:
        nonce = (await self.ask("GET", "/_synapse/admin/v1/register")).json["nonce"]
        user = NewUser(username="root", password="secret", is_admin=True)
        wish = {
            "nonce": nonce,
            "username": "root",
            "password": "secret",
            "admin": True,
            "mac": mac_of(SHARED_SECRET, nonce, user),
        }
        made = await self.ask("POST", "/_synapse/admin/v1/register", wish)
        assert made.status == 200, made.body
        token: str = made.json["access_token"]
        return token

    async def until(self, token: str, target: str, status: int) -> Answer:
        """Wait until every process answers so."""
        with trio.fail_after(LIMIT_S):
            while True:
                answers = await self.everywhere("GET", target, token)
                if all(one.status == status for one in answers):
                    return answers[0]
                await trio.sleep(0.02)


def settings_for(box: MailBox, folder: Path) -> dict[str, Any]:
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
        with running_cluster(layout, postgres, redis, **settings_for(box, folder)) as cluster:
            yield Scene(ports_of(cluster), box)


def ports_of(cluster: Cluster) -> list[int]:
    return [int(url.rpartition(":")[2]) for url in cluster.urls]


@pytest.mark.parametrize(
    "layout", ["T0", pytest.param("T2", marks=[pytest.mark.postgres, pytest.mark.redis])]
)
def test_accounts(layout: Layout, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    postgres: PostgresServer | None = None
    redis: RedisServer | None = None
    if layout == "T2":
        postgres = request.getfixturevalue("postgres_server")
        redis = request.getfixturevalue("redis_server")

    async def scenario() -> None:
        async with open_scene(layout, tmp_path, postgres, redis) as scene:
            alice = await scene.user("alice")
            bob = await scene.user("bob")
            await agree_to_the_terms(scene, alice)
            await agree_to_the_terms(scene, bob)
            lobby = await meet_in_the_lobby(scene, alice, bob)
            await add_an_address(scene, alice)
            await replace_a_forgotten_password(scene, alice)
            await moderate(scene, bob, lobby)

    trio.run(scenario)


async def agree_to_the_terms(scene: Scene, token: str) -> None:
    made = {"name": "Talk"}
    blocked = await scene.ask("POST", V3 + "/createRoom", made, token=token)
    assert (blocked.status, blocked.errcode) == (403, "M_CONSENT_NOT_GIVEN")
    link = urlsplit(blocked.json["consent_uri"])
    target = f"{link.path}?{link.query}"
    assert blocked.json["error"].endswith(blocked.json["consent_uri"])
    page = await scene.ask("GET", target)
    form = dict(re.findall(rb'name="(\w)" value="([^"]+)"', page.body))
    assert set(form) == {b"u", b"h", b"v"}, page.body
    body = b"&".join(name + b"=" + value for name, value in form.items())
    assert (await scene.ask("POST", link.path, body=body)).status == 200
    assert b"agreed" in (await scene.ask("GET", target)).body
    with trio.fail_after(LIMIT_S):
        for port in scene.ports:
            async with HttpClient(port, token) as client:
                made_room = await client.post(V3 + "/createRoom", made)
                while made_room.status != 200:
                    made_room = await client.post(V3 + "/createRoom", made)


async def meet_in_the_lobby(scene: Scene, *tokens: str) -> str:
    found = await scene.ask("GET", f"{V3}/directory/room/{quote(LOBBY)}")
    lobby: str = found.json["room_id"]
    for token in tokens:
        joined = (await scene.ask("GET", V3 + "/joined_rooms", token=token)).json
        assert lobby in joined["joined_rooms"]
    return lobby


async def add_an_address(scene: Scene, token: str) -> None:
    path = V3 + "/account/3pid/add"
    proof, link = await scene.sent("account/3pid", "al@example.org")
    asked = await scene.ask("POST", path, proof, token=token)
    assert asked.status == 401
    assert (await scene.ask("GET", link)).status == 200
    auth = {
        "type": "m.login.password", "user": "alice", "password": "secret",
        "session": asked.json["session"],
    }  # fmt: skip
    added = await scene.ask("POST", path, {**proof, "auth": auth}, token=token)
    assert added.status == 200, added.body
    named = {"type": "m.id.thirdparty", "medium": "email", "address": "AL@example.org"}
    body = {"type": "m.login.password", "identifier": named, "password": "secret"}
    logged_in = await scene.ask("POST", V3 + "/login", body)
    assert logged_in.json["user_id"] == f"@alice:{SERVER_NAME}"


async def replace_a_forgotten_password(scene: Scene, token: str) -> None:
    wish: dict[str, Any] = {"new_password": "another"}
    session = (await scene.ask("POST", CHANGE, wish)).json["session"]
    creds, link = await scene.sent("account/password", "alice@example.org")
    page = await scene.ask("GET", link)
    assert b"<form" in page.body
    path, _, query = link.partition("?")
    assert (await scene.ask("POST", path, body=query.encode())).status == 200
    auth = {"type": "m.login.email.identity", "threepid_creds": creds, "session": session}
    changed = await scene.ask("POST", CHANGE, {**wish, "auth": auth})
    assert changed.status == 200, changed.body
    await scene.until(token, V3 + "/account/whoami", 401)
    body = {"type": "m.login.password", "user": "alice", "password": "another"}
    assert (await scene.ask("POST", V3 + "/login", body)).status == 200


async def moderate(scene: Scene, token: str, lobby: str) -> None:
    root = await scene.administrator()
    whom = quote(f"@bob:{SERVER_NAME}")

    async def set_(what: str, value: bool) -> None:
        target = f"/_matrix/client/v1/admin/{what[:-2] if what == 'locked' else 'suspend'}/{whom}"
        done = await scene.ask("PUT", target, {what: value}, token=root)
        assert done.json == {what: value}
        assert (await scene.ask("GET", target, token=root)).json == {what: value}

    await set_("locked", True)
    locked = await scene.until(token, V3 + "/account/whoami", 401)
    assert (locked.errcode, locked.json["soft_logout"]) == ("M_USER_LOCKED", True)
    await set_("locked", False)
    await scene.until(token, V3 + "/account/whoami", 200)
    await set_("suspended", True)
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
