"""E-mail addresses: proving and adding them, and what they prove."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import attrs
import pytest

from hs.settings.sections.mail import MailSettings
from hs.settings.sections.rate_limits import Rate
from hs.settings.sections.threepids import AllowedThreepids, ThreepidSettings
from hs.storage.database import Database
from tests.support.accounts import DEFAULTS, OPEN, UNLIMITED, open_accounts
from tests.support.addresses import ADDRESS, FREE, V3, Scene, open_scene
from tests.support.mail import open_mail_box, plain_of

REGISTER = V3 + "/register"
CHANGE = V3 + "/account/password"


@pytest.fixture
async def scene(database: Database) -> AsyncIterator[Scene]:
    async with open_scene(database) as opened:
        yield opened


async def test_somebody_registers_with_an_address(database: Database) -> None:
    required = attrs.evolve(OPEN, registrations_require_3pid=("email",))
    async with open_scene(database, registration=required) as scene:
        wish = {"username": "alice", "password": "secret"}
        asked = await scene.post(REGISTER, wish)
        session = asked.json["session"]
        sent = await scene.ask("register")
        creds = {"sid": sent.json["sid"], "client_secret": "s3cret"}
        auth = {"type": "m.login.email.identity", "threepid_creds": creds, "session": session}

        early = await scene.post(REGISTER, {**wish, "auth": auth})
        opened = await scene.accounts.client.get(await scene.link())
        done = await scene.post(REGISTER, {**wish, "auth": auth})

        assert asked.json["flows"] == [{"stages": ["m.login.email.identity"]}]
        assert (early.status, early.errcode) == (401, "M_UNAUTHORIZED")
        assert early.json["flows"]
        assert b"confirmed" in opened.body
        assert done.json["user_id"] == "@alice:test"
        token = done.json["access_token"]
        assert await scene.addresses_of(token) == [("email", ADDRESS)]


async def test_an_address_is_offered_where_it_is_not_required(scene: Scene) -> None:
    asked = await scene.post(REGISTER, {})

    assert [flow["stages"] for flow in asked.json["flows"]] == [
        ["m.login.dummy"],
        ["m.login.email.identity"],
    ]


async def test_two_who_prove_one_address_cannot_both_register(scene: Scene) -> None:
    first, second = (
        await scene.prove("register"),
        await scene.prove("register", " Alice@EXAMPLE.org"),
    )

    def auth(creds: dict[str, str]) -> dict[str, Any]:
        return {"type": "m.login.email.identity", "threepid_creds": creds}

    alice = {"username": "alice", "password": "secret"}
    bob = {"username": "bob", "password": "secret"}
    made = await scene.post(REGISTER, {**alice, "auth": auth(first)})
    refused = await scene.post(REGISTER, {**bob, "auth": auth(second)})
    available = await scene.accounts.client.get(f"{REGISTER}/available?username=bob")

    assert made.status == 200
    assert (refused.status, refused.errcode) == (400, "M_THREEPID_IN_USE")
    assert available.status == 200


async def test_a_user_adds_and_removes_an_address(scene: Scene) -> None:
    alice = await scene.accounts.user("alice", password="secret")

    added = await scene.add(alice.access_token, "alice")
    listed = await scene.addresses_of(alice.access_token)
    removed = await scene.post(
        V3 + "/account/3pid/delete",
        {"medium": "email", "address": "ALICE@example.org"},
        alice.access_token,
    )

    assert added.status == 200
    assert listed == [("email", ADDRESS)]
    assert removed.json == {"id_server_unbind_result": "no-support"}
    assert await scene.addresses_of(alice.access_token) == []


async def test_who_is_suspended_can_still_be_reached(scene: Scene) -> None:
    alice = await scene.accounts.user("alice", password="secret")
    root = await scene.accounts.user("root", is_admin=True)
    suspend = "/_matrix/client/v1/admin/suspend/@alice:test"
    await scene.accounts.client.put(suspend, {"suspended": True}, token=root.access_token)

    added = await scene.add(alice.access_token, "alice")
    removed = await scene.post(
        V3 + "/account/3pid/delete", {"medium": "email", "address": ADDRESS}, alice.access_token
    )

    assert added.status == 200
    assert (removed.status, removed.errcode) == (403, "M_USER_SUSPENDED")
    assert await scene.addresses_of(alice.access_token) == [("email", ADDRESS)]


async def test_an_address_is_added_the_old_way(scene: Scene) -> None:
    alice = await scene.accounts.user("alice")
    creds = await scene.prove("account/3pid")

    added = await scene.post(V3 + "/account/3pid", {"three_pid_creds": creds}, alice.access_token)

    assert added.status == 200
    assert await scene.addresses_of(alice.access_token) == [("email", ADDRESS)]


async def test_who_has_an_address_logs_in_with_it(scene: Scene) -> None:
    alice = await scene.accounts.user("alice", password="secret")
    await scene.add(alice.access_token, "alice")
    named = {"type": "m.id.thirdparty", "medium": "email", "address": "Alice@example.org"}
    body = {"type": "m.login.password", "identifier": named, "password": "secret"}

    answer = await scene.post(V3 + "/login", body)
    old_form = await scene.post(
        V3 + "/login",
        {"type": "m.login.password", "medium": "email", "address": ADDRESS, "password": "secret"},
    )
    wrong = await scene.post(V3 + "/login", {**body, "password": "other"})
    unknown = await scene.post(
        V3 + "/login", {**body, "identifier": {**named, "address": "x@example.org"}}
    )

    assert answer.json["user_id"] == old_form.json["user_id"] == "@alice:test"
    for refused in (wrong, unknown):
        assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    assert wrong.json["error"] == unknown.json["error"]


async def test_a_forgotten_password_is_replaced(scene: Scene) -> None:
    alice = await scene.accounts.user("alice", password="secret")
    await scene.add(alice.access_token, "alice")
    begun = await scene.post(CHANGE, {"new_password": "new"})
    creds = await scene.prove("account/password")
    auth = {
        "type": "m.login.email.identity", "threepid_creds": creds,
        "session": begun.json["session"],
    }  # fmt: skip

    changed = await scene.post(CHANGE, {"new_password": "new", "auth": auth})
    again = await scene.post(CHANGE, {"new_password": "newer", "auth": {**auth, "session": None}})
    whoami = await scene.accounts.client.get(V3 + "/account/whoami", token=alice.access_token)

    assert begun.json["flows"] == [{"stages": ["m.login.email.identity"]}]
    assert changed.json == {}
    assert again.status == 401  # the proof is spent
    assert whoami.status == 401  # logged out everywhere
    await scene.accounts.log_in("alice", "new")


async def test_opening_the_link_alone_changes_nothing(scene: Scene) -> None:
    alice = await scene.accounts.user("alice", password="secret")
    await scene.add(alice.access_token, "alice")
    sent = await scene.ask("account/password")

    page = await scene.accounts.client.get(await scene.link(2))
    creds = {"sid": sent.json["sid"], "client_secret": "s3cret"}
    auth = {"type": "m.login.email.identity", "threepid_creds": creds}
    changed = await scene.post(CHANGE, {"new_password": "new", "auth": auth})

    assert b'method="post"' in page.body
    assert (changed.status, changed.errcode) == (401, "M_UNAUTHORIZED")


@pytest.mark.parametrize("kind", ["register", "account/3pid"])
async def test_what_was_proved_for_one_purpose_serves_no_other(scene: Scene, kind: str) -> None:
    alice = await scene.accounts.user("alice", password="secret")
    creds = await scene.prove(kind)
    await scene.add(alice.access_token, "alice")
    auth = {"type": "m.login.email.identity", "threepid_creds": creds}

    changed = await scene.post(CHANGE, {"new_password": "new", "auth": auth})

    assert (changed.status, changed.errcode) == (401, "M_UNAUTHORIZED")


async def test_another_secret_proves_nothing(scene: Scene) -> None:
    alice = await scene.accounts.user("alice")
    creds = {**await scene.prove("account/3pid"), "client_secret": "another"}

    added = await scene.post(V3 + "/account/3pid", {"three_pid_creds": creds}, alice.access_token)

    assert (added.status, added.errcode) == (403, "M_THREEPID_AUTH_FAILED")


async def test_an_attempt_is_mailed_once(scene: Scene) -> None:
    first = await scene.ask("register")
    again = await scene.ask("register")
    second = await scene.ask("register", send_attempt=2)

    assert first.json == again.json == second.json
    assert len(scene.box.messages) == 2
    # Either link serves.
    assert (await scene.accounts.client.get(await scene.link(1))).status == 200


async def test_a_link_serves_for_a_while_only(scene: Scene) -> None:
    await scene.ask("register")
    link = await scene.link()
    scene.accounts.clock.advance(3_600_000)

    page = await scene.accounts.client.get(link)

    assert page.status == 400
    assert b"expired" in page.body


async def test_a_link_leads_on(scene: Scene) -> None:
    await scene.ask("register", next_link="https://app.example.org/done?x=1")

    page = await scene.accounts.client.get(await scene.link())

    assert (page.status, page.headers["location"]) == (302, "https://app.example.org/done?x=1")


@pytest.mark.parametrize(
    ("link", "allowed", "status"),
    [
        ("javascript:alert(1)", None, 400),
        ("file:///etc/passwd", None, 400),
        ("https://evil.example.org/", ("good.example.org",), 400),
        ("https://good.example.org@evil.example.org/", ("good.example.org",), 400),
        ("https://good.example.org/x", ("good.example.org",), 200),
        ("myapp://done", None, 200),
        ("myapp://done", ("done",), 400),
        ("https://[", None, 400),
    ],
)
async def test_where_a_link_may_lead_is_checked(
    database: Database, link: str, allowed: tuple[str, ...] | None, status: int
) -> None:
    settings = ThreepidSettings(next_link_domain_whitelist=allowed)
    async with open_scene(database, threepids=settings) as scene:
        answer = await scene.ask("register", next_link=link)

    assert answer.status == status


@pytest.mark.parametrize(
    ("wish", "status", "errcode"),
    [
        ({"email": "nobody"}, 400, "M_INVALID_PARAM"),
        ({"email": "a@b@c.de"}, 400, "M_INVALID_PARAM"),
        ({"email": "a\n@example.org"}, 400, "M_INVALID_PARAM"),
        ({"client_secret": ""}, 400, "M_INVALID_PARAM"),
        ({"client_secret": "white space"}, 400, "M_INVALID_PARAM"),
        ({"send_attempt": "one"}, 400, "M_BAD_JSON"),
        ({"email": 1}, 400, "M_BAD_JSON"),
    ],
)
async def test_bad_wishes_are_refused(
    scene: Scene, wish: dict[str, Any], status: int, errcode: str
) -> None:
    answer = await scene.ask("register", **{"email": ADDRESS, **wish})

    assert (answer.status, answer.errcode) == (status, errcode)


async def test_it_is_told_whether_an_address_is_known(scene: Scene) -> None:
    alice = await scene.accounts.user("alice", password="secret")
    await scene.add(alice.access_token, "alice")

    registering, adding = await scene.ask("register"), await scene.ask("account/3pid")
    resetting = await scene.ask("account/password", "bob@example.org")

    assert registering.errcode == adding.errcode == "M_THREEPID_IN_USE"
    assert (resetting.status, resetting.errcode) == (400, "M_THREEPID_NOT_FOUND")


async def test_it_is_not_told_where_it_must_not_be(database: Database) -> None:
    silent = ThreepidSettings(request_token_inhibit_3pid_errors=True)
    async with open_scene(database, threepids=silent) as scene:
        alice = await scene.accounts.user("alice", password="secret")
        await scene.add(alice.access_token, "alice")

        registering = await scene.ask("register", client_secret="other")
        resetting = await scene.ask("account/password", "bob@example.org")

        assert registering.status == resetting.status == 200
        assert "already" in plain_of(await scene.box.wait_for(2))
        assert len(scene.box.messages) == 2


async def test_only_addresses_that_match_are_taken(database: Database) -> None:
    pattern = AllowedThreepids(medium="email", pattern=r".*@example\.org$")
    async with open_scene(
        database, threepids=ThreepidSettings(allowed_local_3pids=(pattern,))
    ) as s:
        denied = await s.ask("register", "a@elsewhere.net")
        taken = await s.ask("register", "a@example.org")
        resetting = await s.ask("account/password", "a@elsewhere.net")

    assert (denied.status, denied.errcode) == (403, "M_THREEPID_DENIED")
    assert (resetting.status, resetting.errcode) == (403, "M_THREEPID_DENIED")
    assert taken.status == 200


async def test_addresses_stay_where_they_may_not_change(database: Database) -> None:
    async with open_scene(database, threepids=ThreepidSettings(enable_3pid_changes=False)) as scene:
        alice = await scene.accounts.user("alice")
        creds = await scene.prove("account/3pid")

        added = await scene.post(
            V3 + "/account/3pid", {"three_pid_creds": creds}, alice.access_token
        )
        told = await scene.accounts.client.get(V3 + "/capabilities", token=alice.access_token)

        assert (added.status, added.errcode) == (403, "M_FORBIDDEN")
        assert told.json["capabilities"]["m.3pid_changes"] == {"enabled": False}


async def test_messages_are_counted_per_address(database: Database) -> None:
    rates = attrs.evolve(UNLIMITED, rc_3pid_validation=Rate(0.001, 2))
    async with open_scene(database, rate_limits=rates) as scene:
        answers = []
        for number in range(3):
            scene.accounts.client.client_ip = f"192.0.2.{number}"
            answers.append((await scene.ask("register", send_attempt=number + 1)).status)

    assert answers == [200, 200, 429]


async def test_a_mail_server_that_is_away_can_be_tried_again(database: Database) -> None:
    async with open_mail_box() as box:
        pass
    email = MailSettings(smtp_host="127.0.0.1", smtp_port=box.port, notif_from="a@test")
    async with open_accounts(
        database, settings=attrs.evolve(DEFAULTS, email=email, rate_limits=FREE)
    ) as accounts:
        answer = await Scene(accounts, box).ask("register")

    assert answer.status == 503


async def test_a_closed_account_gives_its_addresses_up(scene: Scene) -> None:
    alice = await scene.accounts.user("alice", password="secret")
    await scene.add(alice.access_token, "alice")

    await scene.accounts.lifecycle.deactivate(alice.user_id, erase=False)

    assert (await scene.ask("register", send_attempt=5)).status == 200


async def test_addresses_are_published_and_withdrawn(scene: Scene) -> None:
    alice = await scene.accounts.user("alice")
    body = {
        "client_secret": "s", "sid": "9", "id_server": "id.example.org", "id_access_token": "t",
    }  # fmt: skip

    bound = await scene.post(V3 + "/account/3pid/bind", body, alice.access_token)
    unbound = await scene.post(
        V3 + "/account/3pid/unbind",
        {"medium": "email", "address": ADDRESS},
        alice.access_token,
    )

    assert bound.json == {}
    assert scene.accounts.world.bound == [("9", "@alice:test")]
    assert unbound.json == {"id_server_unbind_result": "success"}
    assert scene.accounts.world.unbound == ["@alice:test"]


async def test_the_query_of_a_link_names_its_session(scene: Scene) -> None:
    sent = await scene.ask("register")

    query = parse_qs(urlsplit(await scene.link()).query)

    assert query["sid"] == [sent.json["sid"]]
    assert query["client_secret"] == ["s3cret"]
