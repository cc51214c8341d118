"""Stages of registration other than e-mail: reCAPTCHA, terms, tokens, and the fallback pages."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import attrs
import pytest

from hs.core.ids import UserID
from hs.settings.sections.consent import ConsentSettings
from hs.settings.sections.identity import CaptchaSettings
from hs.settings.sections.rate_limits import Rate
from hs.settings.sections.threepids import ThreepidSettings
from hs.settings.settings import Settings
from hs.storage.accounts import users as account_rows
from hs.storage.database import Database
from tests.support.accounts import DEFAULTS, OPEN, UNLIMITED, Accounts, open_accounts
from tests.support.web import WebResponse

REGISTER = "/_matrix/client/v3/register"
REQUEST = {"username": "alice", "password": "secret"}
FORM_HEADERS = {"content-type": "application/x-www-form-urlencoded"}
WITH_CAPTCHA: Settings = attrs.evolve(
    DEFAULTS,
    threepids=ThreepidSettings(enable_registration_captcha=True),
    captcha=CaptchaSettings(recaptcha_public_key="public", recaptcha_private_key="private"),
)
TERMS = """<p>Terms {{ version }}</p>
{% if not public_version and not has_consented %}{{ user }} {{ userhmac }}{% endif %}
{% if has_consented %}agreed{% endif %}"""


def page_path(stage: str) -> str:
    return f"/_matrix/client/v3/auth/{stage}/fallback/web"


async def submit(accounts: Accounts, path: str, **fields: str) -> WebResponse:
    body = urlencode(fields).encode()
    return await accounts.client.request("POST", path, body=body, headers=FORM_HEADERS)


@pytest.fixture
def terms(tmp_path: Path) -> ConsentSettings:
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / "1.0.html").write_text(TERMS)
    return ConsentSettings(
        version="1.0",
        template_dir=tmp_path,
        require_at_registration=True,
        block_events_error="See %(consent_uri)s",
    )


async def test_recaptcha_is_completed_by_the_client(database: Database) -> None:
    async with open_accounts(database, WITH_CAPTCHA) as accounts:
        challenge = await accounts.client.post(REGISTER, REQUEST)
        auth: dict[str, Any] = {"type": "m.login.recaptcha", "session": challenge.json["session"]}
        wrong = await accounts.client.post(
            REGISTER, {**REQUEST, "auth": {**auth, "response": "wrong"}}
        )
        missing = await accounts.client.post(REGISTER, {**REQUEST, "auth": auth})
        right = await accounts.client.post(
            REGISTER, {**REQUEST, "auth": {**auth, "response": "right"}}
        )

        assert challenge.json["flows"] == [{"stages": ["m.login.recaptcha"]}]
        assert challenge.json["params"] == {"m.login.recaptcha": {"public_key": "public"}}
        assert (wrong.status, wrong.errcode) == (401, "M_UNAUTHORIZED")
        assert (missing.status, missing.errcode) == (401, "M_MISSING_PARAM")
        assert right.status == 200
        assert accounts.servers.captchas == [("wrong", "192.0.2.1"), ("right", "192.0.2.1")]


async def test_completed_stage_is_not_required_again(
    database: Database, terms: ConsentSettings
) -> None:
    async with open_accounts(database, WITH_CAPTCHA, consent=terms) as accounts:
        session = (await accounts.client.post(REGISTER, REQUEST)).json["session"]
        auth = {"type": "m.login.recaptcha", "session": session, "response": "right"}
        first = await accounts.client.post(REGISTER, {**REQUEST, "auth": auth})
        # The response may be lost, and each reCAPTCHA response is valid only once.
        accounts.servers.right_captcha = "another"
        again = await accounts.client.post(REGISTER, {**REQUEST, "auth": auth})
        page = await submit(
            accounts, page_path(auth["type"]), session=session, **{"g-recaptcha-response": "right"}
        )

        for response in (first, again):
            assert (response.status, response.errcode) == (401, None)
            assert response.json["completed"] == ["m.login.recaptcha"]
        assert page.status == 200
        agreed = {"type": "m.login.terms", "session": session}
        assert (await accounts.client.post(REGISTER, {**REQUEST, "auth": agreed})).status == 200


async def test_stages_must_follow_the_order_of_the_flow(
    database: Database, terms: ConsentSettings
) -> None:
    """Spec: client-server API, User-Interactive Authentication API, Overview."""
    async with open_accounts(database, WITH_CAPTCHA, consent=terms) as accounts:

        async def attempt(**auth: str) -> WebResponse:
            body = {**REQUEST, "auth": {"session": session, **auth}}
            return await accounts.client.post(REGISTER, body)

        challenge = await accounts.client.post(REGISTER, REQUEST)
        session = challenge.json["session"]
        early = await attempt(type="m.login.terms")
        first = await attempt(type="m.login.recaptcha", response="right")
        last = await attempt(type="m.login.terms")

        assert challenge.json["flows"] == [{"stages": ["m.login.recaptcha", "m.login.terms"]}]
        assert (early.status, early.errcode) == (401, "M_FORBIDDEN")
        assert early.json["completed"] == []
        assert early.json["flows"] == challenge.json["flows"]
        assert (first.status, first.json["completed"]) == (401, ["m.login.recaptcha"])
        assert last.status == 200


async def test_stage_completed_early_on_the_fallback_page_counts(
    database: Database, terms: ConsentSettings
) -> None:
    async with open_accounts(database, WITH_CAPTCHA, consent=terms) as accounts:
        session = (await accounts.client.post(REGISTER, REQUEST)).json["session"]
        auth = {"type": "m.login.recaptcha", "session": session, "response": "right"}

        page = await submit(accounts, page_path("m.login.terms"), session=session)
        registration = await accounts.client.post(REGISTER, {**REQUEST, "auth": auth})

        assert (page.status, registration.status) == (200, 200)


async def test_recaptcha_is_completed_on_the_fallback_page(database: Database) -> None:
    async with open_accounts(database, WITH_CAPTCHA) as accounts:
        session = (await accounts.client.post(REGISTER, REQUEST)).json["session"]
        path = page_path("m.login.recaptcha")
        page = await accounts.client.get(f"{path}?session={session}")
        wrong = await submit(accounts, path, session=session, **{"g-recaptcha-response": "wrong"})
        right = await submit(accounts, path, session=session, **{"g-recaptcha-response": "right"})
        registration = await accounts.client.post(
            REGISTER, {**REQUEST, "auth": {"session": session}}
        )

        assert b'data-sitekey="public"' in page.body
        assert "https://www.recaptcha.net" in page.headers["content-security-policy"]
        assert wrong.status == 401
        nonce = re.search(rb'nonce="([^"]+)"', right.body)
        assert nonce is not None
        assert f"'nonce-{nonce[1].decode()}'" in right.headers["content-security-policy"]
        assert registration.status == 200


async def test_password_stage_is_completed_on_the_fallback_page(accounts: Accounts) -> None:
    alice = (await accounts.user("alice", password="secret")).access_token
    device = "/_matrix/client/v3/devices/ALICE"
    challenge = await accounts.client.request("DELETE", device, json={}, token=alice)
    session = challenge.json["session"]
    path = page_path("m.login.password")
    page = await accounts.client.get(f"{path}?session={session}")
    wrong = await submit(accounts, path, session=session, password="guess")
    early = await accounts.client.request(
        "DELETE", device, json={"auth": {"session": session}}, token=alice
    )
    right = await submit(accounts, path, session=session, password="secret")
    done = await accounts.client.request(
        "DELETE", device, json={"auth": {"session": session}}, token=alice
    )

    assert b'name="password"' in page.body
    assert [response.status for response in (wrong, early, right, done)] == [401, 401, 200, 200]


async def test_dummy_stage_is_completed_on_the_fallback_page(accounts: Accounts) -> None:
    session = (await accounts.client.post(REGISTER, REQUEST)).json["session"]
    path = page_path("m.login.dummy")
    page = await accounts.client.get(f"{path}?session={session}")
    # There is no password to check in a session without a user.
    wrong_stage = await submit(
        accounts, page_path("m.login.password"), session=session, password="secret"
    )
    done = await submit(accounts, path, session=session)
    registration = await accounts.client.post(REGISTER, {**REQUEST, "auth": {"session": session}})

    assert b"<form" in page.body
    assert [response.status for response in (wrong_stage, done, registration)] == [401, 200, 200]


async def test_token_stage_is_completed_on_the_fallback_page(database: Database) -> None:
    with_token = attrs.evolve(OPEN, registration_requires_token=True)
    async with open_accounts(database, registration=with_token) as accounts:
        await database.write(account_rows.insert_registration_token, "t0ken", None, None)
        session = (await accounts.client.post(REGISTER, REQUEST)).json["session"]
        path = page_path("m.login.registration_token")
        page = await accounts.client.get(f"{path}?session={session}")
        wrong = await submit(accounts, path, session=session, token="other")
        right = await submit(accounts, path, session=session, token="t0ken")
        registration = await accounts.client.post(
            REGISTER, {**REQUEST, "auth": {"session": session}}
        )

        assert b'name="token"' in page.body
        assert (wrong.status, right.status, registration.status) == (401, 200, 200)


async def test_token_attempts_on_the_fallback_page_are_rate_limited(database: Database) -> None:
    with_token = attrs.evolve(OPEN, registration_requires_token=True)
    rates = attrs.evolve(UNLIMITED, rc_registration_token_validity=Rate(0.001, 3))
    async with open_accounts(database, registration=with_token, rate_limits=rates) as accounts:
        session = (await accounts.client.post(REGISTER, REQUEST)).json["session"]
        path = page_path("m.login.registration_token")

        attempts = [await submit(accounts, path, session=session, token=f"{n}") for n in range(4)]

        assert [response.status for response in attempts] == [401, 401, 401, 429]


async def test_fallback_page_escapes_its_parameters(database: Database) -> None:
    async with open_accounts(database, WITH_CAPTCHA) as accounts:
        query = urlencode({"session": '"><script>alert(1)</script>'})

        page = await accounts.client.get(f"{page_path('m.login.recaptcha')}?{query}")

        assert b"<script>alert" not in page.body


@pytest.mark.parametrize("stage", ["m.login.email.identity", "x"])
async def test_unsupported_stage_has_no_fallback_page(database: Database, stage: str) -> None:
    async with open_accounts(database) as accounts:
        page = await accounts.client.get(f"{page_path(stage)}?session=s")
        submitted = await submit(accounts, page_path(stage), session="s")

        assert (page.status, page.errcode) == (404, "M_NOT_FOUND")
        assert (submitted.status, submitted.errcode) == (404, "M_NOT_FOUND")


async def test_new_user_agrees_to_the_terms(database: Database, terms: ConsentSettings) -> None:
    async with open_accounts(database, consent=terms) as accounts:
        challenge = await accounts.client.post(REGISTER, REQUEST)
        policy = challenge.json["params"]["m.login.terms"]["policies"]["privacy_policy"]
        url = urlsplit(policy["en"]["url"])
        page = await accounts.client.get(f"{url.path}?{url.query}")
        auth = {"type": "m.login.terms", "session": challenge.json["session"]}
        registration = await accounts.client.post(REGISTER, {**REQUEST, "auth": auth})
        token = registration.json["access_token"]
        name = "/_matrix/client/v3/profile/@alice:test/displayname"
        name_change = await accounts.client.put(name, {"displayname": "A"}, token=token)

        assert challenge.json["flows"] == [{"stages": ["m.login.terms"]}]
        assert (policy["version"], policy["en"]["name"]) == ("1.0", "Privacy Policy")
        assert page.body.strip() == b"<p>Terms 1.0</p>"
        assert name_change.status == 200


async def test_terms_stage_is_completed_on_the_fallback_page(
    database: Database, terms: ConsentSettings
) -> None:
    async with open_accounts(database, consent=terms) as accounts:
        session = (await accounts.client.post(REGISTER, REQUEST)).json["session"]
        path = page_path("m.login.terms")

        page = await accounts.client.get(f"{path}?session={session}")
        done = await submit(accounts, path, session=session)
        registration = await accounts.client.post(
            REGISTER, {**REQUEST, "auth": {"session": session}}
        )

        assert b"Privacy Policy" in page.body
        assert (done.status, registration.status) == (200, 200)


async def test_user_without_consent_is_blocked_until_they_agree(
    database: Database, terms: ConsentSettings
) -> None:
    name = "/_matrix/client/v3/profile/@alice:test/displayname"
    async with open_accounts(database, consent=terms) as accounts:
        token = (await accounts.user("alice")).access_token

        blocked = await accounts.client.put(name, {"displayname": "A"}, token=token)
        uri = urlsplit(blocked.json["consent_uri"])
        page = await accounts.client.get(f"{uri.path}?{uri.query}")
        user, proof = page.body.decode().split("\n")[1].split()
        forged = await submit(accounts, uri.path, u="alice", h="0" * 64, v="1.0")
        agreed = await submit(accounts, uri.path, u=user, h=proof, v="1.0")
        after = await accounts.client.put(name, {"displayname": "A"}, token=token)
        again = await accounts.client.get(f"{uri.path}?{uri.query}")

        assert (blocked.status, blocked.errcode) == (403, "M_CONSENT_NOT_GIVEN")
        assert blocked.json["error"] == f"See {blocked.json['consent_uri']}"
        assert (forged.status, agreed.status, after.status) == (400, 200, 200)
        assert b"agreed" in again.body


async def test_new_version_of_the_terms_requires_consent_again(
    database: Database, terms: ConsentSettings
) -> None:
    name = "/_matrix/client/v3/profile/@alice:test/displayname"
    async with open_accounts(database, consent=terms) as accounts:
        token = (await accounts.user("alice")).access_token
        await accounts.threepids.consent.agree(UserID("@alice:test"), "1.0")
        assert (await accounts.client.put(name, {"displayname": "A"}, token=token)).status == 200
    new_terms = attrs.evolve(terms, version="2.0")
    async with open_accounts(database, consent=new_terms) as accounts:
        blocked = await accounts.client.put(name, {"displayname": "B"}, token=token)

        assert blocked.errcode == "M_CONSENT_NOT_GIVEN"


@pytest.mark.parametrize("query", ["v=../1.0", "v=2.0", "v=1.0&u=alice&h=x", "v=%00"])
async def test_invalid_consent_link_is_rejected(
    database: Database, terms: ConsentSettings, query: str
) -> None:
    async with open_accounts(database, consent=terms) as accounts:
        page = await accounts.client.get(f"/_matrix/consent?{query}")

        assert page.status == 400


async def test_consent_page_does_not_exist_without_terms(database: Database) -> None:
    async with open_accounts(database) as accounts:
        assert (await accounts.client.get("/_matrix/consent")).status == 404
