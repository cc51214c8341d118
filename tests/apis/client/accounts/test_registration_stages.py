"""What new users must prove besides an address: that they are people, and that they agree."""

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
from tests.support.web import Answer

REGISTER = "/_matrix/client/v3/register"
WISH = {"username": "alice", "password": "secret"}
FORM = {"content-type": "application/x-www-form-urlencoded"}
PUZZLED: Settings = attrs.evolve(
    DEFAULTS,
    threepids=ThreepidSettings(enable_registration_captcha=True),
    captcha=CaptchaSettings(recaptcha_public_key="public", recaptcha_private_key="private"),
)
TERMS = """<p>Terms {{ version }}</p>
{% if not public_version and not has_consented %}{{ user }} {{ userhmac }}{% endif %}
{% if has_consented %}agreed{% endif %}"""


def page_of(stage: str) -> str:
    return f"/_matrix/client/v3/auth/{stage}/fallback/web"


async def fill(accounts: Accounts, path: str, **fields: str) -> Answer:
    body = urlencode(fields).encode()
    return await accounts.client.ask("POST", path, body=body, headers=FORM)


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


async def test_a_client_solves_the_puzzle(database: Database) -> None:
    async with open_accounts(database, settings=PUZZLED) as accounts:
        asked = await accounts.client.post(REGISTER, WISH)
        auth: dict[str, Any] = {"type": "m.login.recaptcha", "session": asked.json["session"]}
        wrong = await accounts.client.post(
            REGISTER, {**WISH, "auth": {**auth, "response": "wrong"}}
        )
        silent = await accounts.client.post(REGISTER, {**WISH, "auth": auth})
        right = await accounts.client.post(
            REGISTER, {**WISH, "auth": {**auth, "response": "right"}}
        )

        assert asked.json["flows"] == [{"stages": ["m.login.recaptcha"]}]
        assert asked.json["params"] == {"m.login.recaptcha": {"public_key": "public"}}
        assert (wrong.status, wrong.errcode) == (401, "M_UNAUTHORIZED")
        assert (silent.status, silent.errcode) == (401, "M_MISSING_PARAM")
        assert right.status == 200
        assert accounts.puzzles.asked == [("wrong", "192.0.2.1"), ("right", "192.0.2.1")]


async def test_what_was_proved_is_not_asked_again(
    database: Database, terms: ConsentSettings
) -> None:
    async with open_accounts(database, settings=attrs.evolve(PUZZLED, consent=terms)) as accounts:
        session = (await accounts.client.post(REGISTER, WISH)).json["session"]
        auth = {"type": "m.login.recaptcha", "session": session, "response": "right"}
        first = await accounts.client.post(REGISTER, {**WISH, "auth": auth})
        # The answer may be lost, and each puzzle can be solved once.
        accounts.puzzles.right = "another"
        again = await accounts.client.post(REGISTER, {**WISH, "auth": auth})
        page = await fill(
            accounts, page_of(auth["type"]), session=session, **{"g-recaptcha-response": "right"}
        )

        for answer in (first, again):
            assert (answer.status, answer.errcode) == (401, None)
            assert answer.json["completed"] == ["m.login.recaptcha"]
        assert page.status == 200
        agreed = {"type": "m.login.terms", "session": session}
        assert (await accounts.client.post(REGISTER, {**WISH, "auth": agreed})).status == 200


async def test_stages_come_in_the_order_of_the_flow(
    database: Database, terms: ConsentSettings
) -> None:
    """Spec: client-server API, User-Interactive Authentication API, Overview."""
    async with open_accounts(database, settings=attrs.evolve(PUZZLED, consent=terms)) as accounts:

        async def attempt(**auth: str) -> Answer:
            wish = {**WISH, "auth": {"session": session, **auth}}
            return await accounts.client.post(REGISTER, wish)

        asked = await accounts.client.post(REGISTER, WISH)
        session = asked.json["session"]
        early = await attempt(type="m.login.terms")
        first = await attempt(type="m.login.recaptcha", response="right")
        last = await attempt(type="m.login.terms")

        assert asked.json["flows"] == [{"stages": ["m.login.recaptcha", "m.login.terms"]}]
        assert (early.status, early.errcode) == (401, "M_FORBIDDEN")
        assert early.json["completed"] == []
        assert early.json["flows"] == asked.json["flows"]
        assert (first.status, first.json["completed"]) == (401, ["m.login.recaptcha"])
        assert last.status == 200


async def test_what_was_done_on_our_page_too_early_still_counts(
    database: Database, terms: ConsentSettings
) -> None:
    async with open_accounts(database, settings=attrs.evolve(PUZZLED, consent=terms)) as accounts:
        session = (await accounts.client.post(REGISTER, WISH)).json["session"]
        auth = {"type": "m.login.recaptcha", "session": session, "response": "right"}

        page = await fill(accounts, page_of("m.login.terms"), session=session)
        made = await accounts.client.post(REGISTER, {**WISH, "auth": auth})

        assert (page.status, made.status) == (200, 200)


async def test_a_puzzle_is_solved_on_our_page(database: Database) -> None:
    async with open_accounts(database, settings=PUZZLED) as accounts:
        session = (await accounts.client.post(REGISTER, WISH)).json["session"]
        path = page_of("m.login.recaptcha")
        page = await accounts.client.get(f"{path}?session={session}")
        wrong = await fill(accounts, path, session=session, **{"g-recaptcha-response": "wrong"})
        right = await fill(accounts, path, session=session, **{"g-recaptcha-response": "right"})
        made = await accounts.client.post(REGISTER, {**WISH, "auth": {"session": session}})

        assert b'data-sitekey="public"' in page.body
        assert "https://www.recaptcha.net" in page.headers["content-security-policy"]
        assert wrong.status == 401
        nonce = re.search(rb'nonce="([^"]+)"', right.body)
        assert nonce is not None
        assert f"'nonce-{nonce[1].decode()}'" in right.headers["content-security-policy"]
        assert made.status == 200


async def test_a_password_is_given_on_our_page(accounts: Accounts) -> None:
    alice = (await accounts.user("alice", password="secret")).access_token
    device = "/_matrix/client/v3/devices/ALICE"
    asked = await accounts.client.ask("DELETE", device, json={}, token=alice)
    session = asked.json["session"]
    path = page_of("m.login.password")
    page = await accounts.client.get(f"{path}?session={session}")
    wrong = await fill(accounts, path, session=session, password="guess")
    early = await accounts.client.ask(
        "DELETE", device, json={"auth": {"session": session}}, token=alice
    )
    right = await fill(accounts, path, session=session, password="secret")
    done = await accounts.client.ask(
        "DELETE", device, json={"auth": {"session": session}}, token=alice
    )

    assert b'name="password"' in page.body
    assert [one.status for one in (wrong, early, right, done)] == [401, 401, 200, 200]


async def test_who_need_prove_nothing_only_goes_on(accounts: Accounts) -> None:
    session = (await accounts.client.post(REGISTER, WISH)).json["session"]
    path = page_of("m.login.dummy")
    page = await accounts.client.get(f"{path}?session={session}")
    # No password belongs to a session of nobody's.
    nobody = await fill(accounts, page_of("m.login.password"), session=session, password="secret")
    done = await fill(accounts, path, session=session)
    made = await accounts.client.post(REGISTER, {**WISH, "auth": {"session": session}})

    assert b"<form" in page.body
    assert [one.status for one in (nobody, done, made)] == [401, 200, 200]


async def test_a_token_is_given_on_our_page(database: Database) -> None:
    guarded = attrs.evolve(OPEN, registration_requires_token=True)
    async with open_accounts(database, registration=guarded) as accounts:
        await database.write(account_rows.insert_registration_token, "t0ken", None, None)
        session = (await accounts.client.post(REGISTER, WISH)).json["session"]
        path = page_of("m.login.registration_token")
        page = await accounts.client.get(f"{path}?session={session}")
        wrong = await fill(accounts, path, session=session, token="other")
        right = await fill(accounts, path, session=session, token="t0ken")
        made = await accounts.client.post(REGISTER, {**WISH, "auth": {"session": session}})

        assert b'name="token"' in page.body
        assert (wrong.status, right.status, made.status) == (401, 200, 200)


async def test_no_token_is_found_by_trying_on_our_page(database: Database) -> None:
    guarded = attrs.evolve(OPEN, registration_requires_token=True)
    rates = attrs.evolve(UNLIMITED, rc_registration_token_validity=Rate(0.001, 3))
    async with open_accounts(database, registration=guarded, rate_limits=rates) as accounts:
        session = (await accounts.client.post(REGISTER, WISH)).json["session"]
        path = page_of("m.login.registration_token")

        tried = [await fill(accounts, path, session=session, token=f"{n}") for n in range(4)]

        assert [one.status for one in tried] == [401, 401, 401, 429]


async def test_a_page_escapes_what_it_is_given(database: Database) -> None:
    async with open_accounts(database, settings=PUZZLED) as accounts:
        query = urlencode({"session": '"><script>alert(1)</script>'})

        page = await accounts.client.get(f"{page_of('m.login.recaptcha')}?{query}")

        assert b"<script>alert" not in page.body


@pytest.mark.parametrize("stage", ["m.login.email.identity", "x"])
async def test_other_stages_have_no_page(database: Database, stage: str) -> None:
    async with open_accounts(database) as accounts:
        page = await accounts.client.get(f"{page_of(stage)}?session=s")
        filled = await fill(accounts, page_of(stage), session="s")

        assert (page.status, page.errcode) == (404, "M_NOT_FOUND")
        assert (filled.status, filled.errcode) == (404, "M_NOT_FOUND")


async def test_new_users_agree_to_the_terms(database: Database, terms: ConsentSettings) -> None:
    settings = attrs.evolve(DEFAULTS, consent=terms)
    async with open_accounts(database, settings=settings) as accounts:
        asked = await accounts.client.post(REGISTER, WISH)
        policy = asked.json["params"]["m.login.terms"]["policies"]["privacy_policy"]
        url = urlsplit(policy["en"]["url"])
        page = await accounts.client.get(f"{url.path}?{url.query}")
        auth = {"type": "m.login.terms", "session": asked.json["session"]}
        made = await accounts.client.post(REGISTER, {**WISH, "auth": auth})
        token = made.json["access_token"]
        name = "/_matrix/client/v3/profile/@alice:test/displayname"
        named = await accounts.client.put(name, {"displayname": "A"}, token=token)

        assert asked.json["flows"] == [{"stages": ["m.login.terms"]}]
        assert (policy["version"], policy["en"]["name"]) == ("1.0", "Privacy Policy")
        assert page.body.strip() == b"<p>Terms 1.0</p>"
        assert named.status == 200


async def test_terms_are_agreed_to_on_our_page(database: Database, terms: ConsentSettings) -> None:
    settings = attrs.evolve(DEFAULTS, consent=terms)
    async with open_accounts(database, settings=settings) as accounts:
        session = (await accounts.client.post(REGISTER, WISH)).json["session"]
        path = page_of("m.login.terms")

        page = await accounts.client.get(f"{path}?session={session}")
        done = await fill(accounts, path, session=session)
        made = await accounts.client.post(REGISTER, {**WISH, "auth": {"session": session}})

        assert b"Privacy Policy" in page.body
        assert (done.status, made.status) == (200, 200)


async def test_who_has_not_agreed_does_not_act(database: Database, terms: ConsentSettings) -> None:
    name = "/_matrix/client/v3/profile/@alice:test/displayname"
    settings = attrs.evolve(DEFAULTS, consent=terms)
    async with open_accounts(database, settings=settings) as accounts:
        token = (await accounts.user("alice")).access_token

        blocked = await accounts.client.put(name, {"displayname": "A"}, token=token)
        uri = urlsplit(blocked.json["consent_uri"])
        page = await accounts.client.get(f"{uri.path}?{uri.query}")
        user, proof = page.body.decode().split("\n")[1].split()
        forged = await fill(accounts, uri.path, u="alice", h="0" * 64, v="1.0")
        agreed = await fill(accounts, uri.path, u=user, h=proof, v="1.0")
        after = await accounts.client.put(name, {"displayname": "A"}, token=token)
        again = await accounts.client.get(f"{uri.path}?{uri.query}")

        assert (blocked.status, blocked.errcode) == (403, "M_CONSENT_NOT_GIVEN")
        assert blocked.json["error"] == f"See {blocked.json['consent_uri']}"
        assert (forged.status, agreed.status, after.status) == (400, 200, 200)
        assert b"agreed" in again.body


async def test_new_terms_are_asked_for_again(database: Database, terms: ConsentSettings) -> None:
    name = "/_matrix/client/v3/profile/@alice:test/displayname"
    async with open_accounts(database, settings=attrs.evolve(DEFAULTS, consent=terms)) as accounts:
        token = (await accounts.user("alice")).access_token
        await accounts.proving.consent.agree(UserID("@alice:test"), "1.0")
        assert (await accounts.client.put(name, {"displayname": "A"}, token=token)).status == 200
    newer = attrs.evolve(terms, version="2.0")
    async with open_accounts(database, settings=attrs.evolve(DEFAULTS, consent=newer)) as accounts:
        blocked = await accounts.client.put(name, {"displayname": "B"}, token=token)

        assert blocked.errcode == "M_CONSENT_NOT_GIVEN"


@pytest.mark.parametrize("query", ["v=../1.0", "v=2.0", "v=1.0&u=alice&h=x", "v=%00"])
async def test_other_pages_are_not_shown(
    database: Database, terms: ConsentSettings, query: str
) -> None:
    async with open_accounts(database, settings=attrs.evolve(DEFAULTS, consent=terms)) as accounts:
        page = await accounts.client.get(f"/_matrix/consent?{query}")

        assert page.status == 400


async def test_without_terms_there_is_no_page(database: Database) -> None:
    async with open_accounts(database) as accounts:
        assert (await accounts.client.get("/_matrix/consent")).status == 404
