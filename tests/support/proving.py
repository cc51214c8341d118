"""Fakes for the validation of addresses and for captchas in tests of accounts."""

from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

import attrs
import orjson

from hs.core.ids import ServerName
from hs.core.signing.keys import Signer, SigningKey
from hs.lib.http_client import NO_HEADERS, HttpResponse
from hs.nursery.wiring.threepid_servers import ThreepidServers
from hs.services.accounts.terms.captcha import Captcha
from hs.services.accounts.threepids.identity_servers import IdentityServers
from hs.services.accounts.threepids.msisdn_delegate import MsisdnDelegate
from hs.settings.settings import Settings
from hs.storage.database import Database

KEY = SigningKey.from_seed("a_test", bytes(32))


@attrs.define(eq=False)
class FakeCaptcha:
    """A Captcha that accepts one known response and records all."""

    right: str = "right"
    asked: list[tuple[str, str]] = attrs.field(factory=list)

    async def verify(self, response: str, client_ip: str) -> bool:
        self.asked.append((response, client_ip))
        return response == self.right


@attrs.define(eq=False)
class FakeIdentityServer:
    """An HttpClient that acts as an identity server.

    It validates phone numbers and binds addresses.
    """

    code: str = "1234"
    numbers: dict[str, str] = attrs.field(factory=dict)
    validated: set[str] = attrs.field(factory=set)
    bound: list[tuple[str, str]] = attrs.field(factory=list)
    unbound: list[str] = attrs.field(factory=list)

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        body: bytes | None = None,
        timeout_s: float = 30.0,
        max_bytes: int = 1 << 20,
        redirects: int = 0,
    ) -> HttpResponse:
        parts = urlsplit(url)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        fields = orjson.loads(body) if body else query
        status, content = self._respond(parts.path.rsplit("/", 1)[1], fields)
        return HttpResponse(status, {}, orjson.dumps(content), url)

    def _respond(self, name: str, fields: dict[str, str]) -> tuple[int, dict[str, object]]:
        if name == "requestToken":
            sid = f"remote{len(self.numbers)}"
            self.numbers[sid] = "".join(c for c in fields["phone_number"] if c.isdigit())
            return 200, {"sid": sid, "success": True, "msisdn": self.numbers[sid]}
        if name == "submitToken":
            if fields["token"] == self.code:
                self.validated.add(fields["sid"])
            return 200, {"success": fields["token"] == self.code}
        if name == "getValidated3pid":
            if fields["sid"] not in self.validated:
                return 400, {"errcode": "M_SESSION_NOT_VALIDATED", "error": "no"}
            address = self.numbers[fields["sid"]]
            return 200, {"medium": "msisdn", "address": address, "validated_at": 5}
        if name == "bind":
            self.bound.append((fields["sid"], fields["mxid"]))
            return 200, {"medium": "email", "address": "alice@example.org", "mxid": fields["mxid"]}
        self.unbound.append(fields["mxid"])
        return 200, {}


def address_servers(
    settings: Settings, database: Database, world: FakeIdentityServer, captcha: Captcha
) -> ThreepidServers:
    """Build the clients of identity servers, which send their requests to `world`."""
    signer = Signer(ServerName("test"), KEY)
    return ThreepidServers(
        identity_servers=IdentityServers(database, world, signer),
        phones=MsisdnDelegate(settings.delegates.msisdn, world),
        captcha=captcha,
    )
