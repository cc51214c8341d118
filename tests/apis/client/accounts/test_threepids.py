"""E-mail addresses: validating and adding them, and authentication by them."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import attrs
import pytest

from hs.settings.sections.mail import MailSettings
from hs.settings.sections.rate_limits import Rate
from hs.settings.sections.threepids import AllowedThreepids, ThreepidSettings
from hs.storage.database import Database
from tests.support.accounts import OPEN, UNLIMITED, open_accounts
from tests.support.addresses import ADDRESS, FREE, V3, AddressScene, open_scene
from tests.support.servers.smtp import open_mail_box, plain_of

REGISTER = V3 + "/register"
CHANGE = V3 + "/account/password"


@pytest.fixture
async def scene(database: Database) -> AsyncIterator[AddressScene]:
    async with open_scene(database) as scene:
        yield scene


async def test_registration_with_an_address(database: Database) -> None:
    required = attrs.evolve(OPEN, registrations_require_3pid=("email",))
    async with open_scene(database, registration=required) as scene:
        body = {"username": "alice", "password": "secret"}
        challenge = await scene.post(REGISTER, body)
        session = challenge.json["session"]
        sent = await scene.request("register")
        creds = {"sid": sent.json["sid"], "client_secret": "s3cret"}
        auth = {"type": "m.login.email.identity", "threepid_creds": creds, "session": session}

        early_registration = await scene.post(REGISTER, {**body, "auth": auth})
        page = await scene.accounts.client.get(await scene.link())
        registration = await scene.post(REGISTER, {**body, "auth": auth})

        assert challenge.json["flows"] == [{"stages": ["m.login.email.identity"]}]
        assert (early_registration.status, early_registration.errcode) == (401, "M_UNAUTHORIZED")
        assert early_registration.json["flows"]
        assert b"confirmed" in page.body
        assert registration.json["user_id"] == "@alice:test"
        token = registration.json["access_token"]
        assert await scene.addresses_of(token) == [("email", ADDRESS)]


async def test_email_stage_is_optional_by_default(scene: AddressScene) -> None:
    challenge = await scene.post(REGISTER, {})

    assert [flow["stages"] for flow in challenge.json["flows"]] == [
        ["m.login.dummy"],
        ["m.login.email.identity"],
    ]


async def test_one_address_cannot_register_two_accounts(scene: AddressScene) -> None:
    first, second = (
        await scene.prove("register"),
        await scene.prove("register", " Alice@EXAMPLE.org"),
    )

    def auth(creds: dict[str, str]) -> dict[str, Any]:
        return {"type": "m.login.email.identity", "threepid_creds": creds}

    alice = {"username": "alice", "password": "secret"}
    bob = {"username": "bob", "password": "secret"}
    first_registration = await scene.post(REGISTER, {**alice, "auth": auth(first)})
    second_registration = await scene.post(REGISTER, {**bob, "auth": auth(second)})
    available = await scene.accounts.client.get(f"{REGISTER}/available?username=bob")

    assert first_registration.status == 200
    assert (second_registration.status, second_registration.errcode) == (400, "M_THREEPID_IN_USE")
    assert available.status == 200


async def test_user_adds_and_removes_an_address(scene: AddressScene) -> None:
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


async def test_suspended_user_can_add_but_not_remove_an_address(scene: AddressScene) -> None:
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


async def test_address_is_added_by_the_deprecated_endpoint(scene: AddressScene) -> None:
    alice = await scene.accounts.user("alice")
    creds = await scene.prove("account/3pid")

    added = await scene.post(V3 + "/account/3pid", {"three_pid_creds": creds}, alice.access_token)

    assert added.status == 200
    assert await scene.addresses_of(alice.access_token) == [("email", ADDRESS)]


async def test_user_logs_in_with_an_address(scene: AddressScene) -> None:
    alice = await scene.accounts.user("alice", password="secret")
    await scene.add(alice.access_token, "alice")
    identifier = {"type": "m.id.thirdparty", "medium": "email", "address": "Alice@example.org"}
    body = {"type": "m.login.password", "identifier": identifier, "password": "secret"}

    response = await scene.post(V3 + "/login", body)
    old_form = await scene.post(
        V3 + "/login",
        {"type": "m.login.password", "medium": "email", "address": ADDRESS, "password": "secret"},
    )
    wrong = await scene.post(V3 + "/login", {**body, "password": "other"})
    unknown = await scene.post(
        V3 + "/login", {**body, "identifier": {**identifier, "address": "x@example.org"}}
    )

    assert response.json["user_id"] == old_form.json["user_id"] == "@alice:test"
    for rejected in (wrong, unknown):
        assert (rejected.status, rejected.errcode) == (403, "M_FORBIDDEN")
    assert wrong.json["error"] == unknown.json["error"]


async def test_password_reset_by_email(scene: AddressScene) -> None:
    alice = await scene.accounts.user("alice", password="secret")
    await scene.add(alice.access_token, "alice")
    challenge = await scene.post(CHANGE, {"new_password": "new"})
    creds = await scene.prove("account/password")
    auth = {
        "type": "m.login.email.identity", "threepid_creds": creds,
        "session": challenge.json["session"],
    }  # fmt: skip

    changed = await scene.post(CHANGE, {"new_password": "new", "auth": auth})
    repeated = await scene.post(
        CHANGE, {"new_password": "newer", "auth": {**auth, "session": None}}
    )
    whoami = await scene.accounts.client.get(V3 + "/account/whoami", token=alice.access_token)

    assert challenge.json["flows"] == [{"stages": ["m.login.email.identity"]}]
    assert changed.json == {}
    assert repeated.status == 401  # the validation was used
    assert whoami.status == 401  # logged out everywhere
    await scene.accounts.log_in("alice", "new")


async def test_opening_the_reset_link_does_not_validate_the_session(scene: AddressScene) -> None:
    alice = await scene.accounts.user("alice", password="secret")
    await scene.add(alice.access_token, "alice")
    sent = await scene.request("account/password")

    page = await scene.accounts.client.get(await scene.link(2))
    creds = {"sid": sent.json["sid"], "client_secret": "s3cret"}
    auth = {"type": "m.login.email.identity", "threepid_creds": creds}
    changed = await scene.post(CHANGE, {"new_password": "new", "auth": auth})

    assert b'method="post"' in page.body
    assert (changed.status, changed.errcode) == (401, "M_UNAUTHORIZED")


@pytest.mark.parametrize("kind", ["register", "account/3pid"])
async def test_validation_is_limited_to_its_purpose(scene: AddressScene, kind: str) -> None:
    alice = await scene.accounts.user("alice", password="secret")
    creds = await scene.prove(kind)
    await scene.add(alice.access_token, "alice")
    auth = {"type": "m.login.email.identity", "threepid_creds": creds}

    changed = await scene.post(CHANGE, {"new_password": "new", "auth": auth})

    assert (changed.status, changed.errcode) == (401, "M_UNAUTHORIZED")


async def test_wrong_client_secret_is_rejected(scene: AddressScene) -> None:
    alice = await scene.accounts.user("alice")
    creds = {**await scene.prove("account/3pid"), "client_secret": "another"}

    added = await scene.post(V3 + "/account/3pid", {"three_pid_creds": creds}, alice.access_token)

    assert (added.status, added.errcode) == (403, "M_THREEPID_AUTH_FAILED")


async def test_email_is_sent_once_per_attempt(scene: AddressScene) -> None:
    first = await scene.request("register")
    repeated = await scene.request("register")
    second = await scene.request("register", send_attempt=2)

    assert first.json == repeated.json == second.json
    assert len(scene.box.messages) == 2
    # Either link is valid.
    assert (await scene.accounts.client.get(await scene.link(1))).status == 200


async def test_validation_link_expires(scene: AddressScene) -> None:
    await scene.request("register")
    link = await scene.link()
    scene.accounts.clock.advance(3_600_000)

    page = await scene.accounts.client.get(link)

    assert page.status == 400
    assert b"expired" in page.body


async def test_validation_link_redirects_to_next_link(scene: AddressScene) -> None:
    await scene.request("register", next_link="https://app.example.org/done?x=1")

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
async def test_next_link_is_checked(
    database: Database, link: str, allowed: tuple[str, ...] | None, status: int
) -> None:
    settings = ThreepidSettings(next_link_domain_whitelist=allowed)
    async with open_scene(database, threepids=settings) as scene:
        response = await scene.request("register", next_link=link)

    assert response.status == status


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
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
async def test_invalid_token_request_is_rejected(
    scene: AddressScene, body: dict[str, Any], status: int, errcode: str
) -> None:
    response = await scene.request("register", **{"email": ADDRESS, **body})

    assert (response.status, response.errcode) == (status, errcode)


async def test_token_request_reveals_known_addresses_by_default(scene: AddressScene) -> None:
    alice = await scene.accounts.user("alice", password="secret")
    await scene.add(alice.access_token, "alice")

    registering, adding = await scene.request("register"), await scene.request("account/3pid")
    resetting = await scene.request("account/password", "bob@example.org")

    assert registering.errcode == adding.errcode == "M_THREEPID_IN_USE"
    assert (resetting.status, resetting.errcode) == (400, "M_THREEPID_NOT_FOUND")


async def test_token_request_can_hide_known_addresses(database: Database) -> None:
    threepids = ThreepidSettings(request_token_inhibit_3pid_errors=True)
    async with open_scene(database, threepids=threepids) as scene:
        alice = await scene.accounts.user("alice", password="secret")
        await scene.add(alice.access_token, "alice")

        registering = await scene.request("register", client_secret="other")
        resetting = await scene.request("account/password", "bob@example.org")

        assert registering.status == resetting.status == 200
        assert "already" in plain_of(await scene.box.wait_for(2))
        assert len(scene.box.messages) == 2


async def test_only_allowed_addresses_are_accepted(database: Database) -> None:
    pattern = AllowedThreepids(medium="email", pattern=r".*@example\.org$")
    async with open_scene(
        database, threepids=ThreepidSettings(allowed_local_3pids=(pattern,))
    ) as scene:
        other_domain = await scene.request("register", "a@elsewhere.net")
        allowed_domain = await scene.request("register", "a@example.org")
        resetting = await scene.request("account/password", "a@elsewhere.net")

    assert (other_domain.status, other_domain.errcode) == (403, "M_THREEPID_DENIED")
    assert (resetting.status, resetting.errcode) == (403, "M_THREEPID_DENIED")
    assert allowed_domain.status == 200


async def test_threepid_changes_can_be_disabled(database: Database) -> None:
    async with open_scene(database, threepids=ThreepidSettings(enable_3pid_changes=False)) as scene:
        alice = await scene.accounts.user("alice")
        creds = await scene.prove("account/3pid")

        added = await scene.post(
            V3 + "/account/3pid", {"three_pid_creds": creds}, alice.access_token
        )
        capabilities = await scene.accounts.client.get(
            V3 + "/capabilities", token=alice.access_token
        )

        assert (added.status, added.errcode) == (403, "M_FORBIDDEN")
        assert capabilities.json["capabilities"]["m.3pid_changes"] == {"enabled": False}


async def test_token_requests_are_rate_limited_per_email_address(database: Database) -> None:
    rates = attrs.evolve(UNLIMITED, rc_3pid_validation=Rate(0.001, 2))
    async with open_scene(database, rate_limits=rates) as scene:
        statuses = []
        for number in range(3):
            scene.accounts.client.client_ip = f"192.0.2.{number}"
            statuses.append((await scene.request("register", send_attempt=number + 1)).status)

    assert statuses == [200, 200, 429]


async def test_unavailable_mail_server_is_a_temporary_error(database: Database) -> None:
    async with open_mail_box() as box:
        pass
    email = MailSettings(smtp_host="127.0.0.1", smtp_port=box.port, notif_from="a@test")
    async with open_accounts(database, email=email, rate_limits=FREE) as accounts:
        response = await AddressScene(accounts, box).request("register")

    assert response.status == 503


async def test_deactivated_account_releases_its_addresses(scene: AddressScene) -> None:
    alice = await scene.accounts.user("alice", password="secret")
    await scene.add(alice.access_token, "alice")

    await scene.accounts.lifecycle.deactivate(alice.user_id, erase=False)

    assert (await scene.request("register", send_attempt=5)).status == 200


async def test_address_is_bound_and_unbound_at_the_identity_server(scene: AddressScene) -> None:
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
    assert scene.accounts.servers.bound == [("9", "@alice:test")]
    assert unbound.json == {"id_server_unbind_result": "success"}
    assert scene.accounts.servers.unbound == ["@alice:test"]


async def test_validation_link_has_the_session_id(scene: AddressScene) -> None:
    sent = await scene.request("register")

    query = parse_qs(urlsplit(await scene.link()).query)

    assert query["sid"] == [sent.json["sid"]]
    assert query["client_secret"] == ["s3cret"]
