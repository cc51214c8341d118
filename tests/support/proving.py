"""The servers that accounts ask: identity servers and the captcha service."""

from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

import attrs
import orjson

from hs.lib.http_client import NO_HEADERS, HttpResponse


@attrs.define(eq=False)
class FakeServers:
    """An HttpClient that acts as an identity server and as a captcha service.

    The identity server validates phone numbers and binds addresses. The captcha service accepts one
    response; `captchas` are the responses that it was asked about, with the client's address.
    """

    code: str = "1234"
    numbers: dict[str, str] = attrs.field(factory=dict)
    validated: set[str] = attrs.field(factory=set)
    bound: list[tuple[str, str]] = attrs.field(factory=list)
    unbound: list[str] = attrs.field(factory=list)
    right_captcha: str = "right"
    captchas: list[tuple[str, str]] = attrs.field(factory=list)

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
        parts, sent = urlsplit(url), body or b""
        is_json = sent.startswith(b"{")
        fields = orjson.loads(sent) if is_json else dict(parse_qsl(sent.decode() or parts.query))
        status, content = self._respond(parts.path.rsplit("/", 1)[1], fields)
        return HttpResponse(status, {}, orjson.dumps(content), url)

    def _respond(self, name: str, fields: dict[str, str]) -> tuple[int, dict[str, object]]:
        if name == "siteverify":
            self.captchas.append((fields["response"], fields["remoteip"]))
            return 200, {"success": fields["response"] == self.right_captcha}
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
