"""The accounts of a process with a mail box, for tests of third-party identifiers."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import attrs

from hs.settings.sections.mail import MailSettings
from hs.settings.sections.rate_limits import Rate
from hs.storage.database import Database
from tests.support.accounts import UNLIMITED, Accounts, open_accounts
from tests.support.servers.smtp import MailBox, open_mail_box, plain_of
from tests.support.web import WebResponse

V3 = "/_matrix/client/v3"
ADDRESS = "alice@example.org"
FREE = attrs.evolve(UNLIMITED, rc_3pid_validation=Rate(1000, 1000))


@attrs.define
class AddressScene:
    """A server, and one mail box for all addresses."""

    accounts: Accounts
    box: MailBox

    async def post(self, path: str, body: Any, token: str | None = None) -> WebResponse:
        return await self.accounts.client.post(path, body, token=token)

    async def request(self, kind: str, email: str = ADDRESS, **more: Any) -> WebResponse:
        """Request a validation e-mail; kind is `register`, `account/password` or `account/3pid`."""
        body = {"email": email, "client_secret": "s3cret", "send_attempt": 1, **more}
        return await self.post(f"{V3}/{kind}/email/requestToken", body)

    async def link(self, count: int = 1) -> str:
        """Return the path and query of the link in an e-mail, by default the first."""
        text = plain_of(await self.box.wait_for(count))
        match = re.search(r"https://\S+", text)
        assert match is not None, text
        parts = urlsplit(match[0])
        return f"{parts.path}?{parts.query}"

    async def prove(self, kind: str, email: str = ADDRESS) -> dict[str, str]:
        """Validate an address and return the credentials of the validation session."""
        count = len(self.box.messages) + 1
        requested = await self.request(kind, email, send_attempt=count)
        assert requested.status == 200, requested.body
        link = await self.link(count)
        if kind == "account/password":
            path, _, query = link.partition("?")
            response = await self.accounts.client.request("POST", path, body=query.encode())
        else:
            response = await self.accounts.client.get(link)
        assert response.status == 200, response.body
        return {"sid": requested.json["sid"], "client_secret": "s3cret"}

    async def addresses_of(self, token: str) -> list[tuple[str, str]]:
        """Return the (medium, address) pairs of an account."""
        response = await self.accounts.client.get(V3 + "/account/3pid", token=token)
        return [(entry["medium"], entry["address"]) for entry in response.json["threepids"]]

    async def add(self, token: str, name: str, email: str = ADDRESS) -> WebResponse:
        """Validate an address and add it to an account."""
        proof = await self.prove("account/3pid", email)
        challenge = await self.post(V3 + "/account/3pid/add", proof, token)
        auth = {
            "type": "m.login.password", "user": name, "password": "secret",
            "session": challenge.json["session"],
        }  # fmt: skip
        return await self.post(V3 + "/account/3pid/add", {**proof, "auth": auth}, token)


@asynccontextmanager
async def open_scene(database: Database, **more: Any) -> AsyncIterator[AddressScene]:
    """Start a process and a mail server; `more` are settings."""
    async with open_mail_box() as box:
        email = MailSettings(
            smtp_host="127.0.0.1", smtp_port=box.port, notif_from="%(app)s <noreply@test>"
        )
        async with open_accounts(
            database, **{"email": email, "rate_limits": FREE, **more}
        ) as accounts:
            yield AddressScene(accounts, box)
