"""Requests of clients about their pushers.

Spec: client-server API, GET pushers, POST pushers/set; MSC3881 (disabling pushers of other
devices); MSC4076 (no badge counts).
"""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import attrs
import orjson

from hs.core.canonical_json import JsonObject
from hs.core.errors import BadJson, InvalidParam, MissingParam, ThreepidNotFound
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.services.push.pushers.pusher_table import PusherRequest, PusherWriter
from hs.storage.database import Database
from hs.storage.push import pushers as storage
from hs.storage.push.pushers import PusherRecord

HTTP: Final = "http"
EMAIL: Final = "email"
EMAIL_APP_ID: Final = "m.email"
GATEWAY_PATH: Final = "/_matrix/push/v1/notify"
EVENT_ID_ONLY: Final = "event_id_only"
ENABLED: Final = "org.matrix.msc3881.enabled"
DEVICE_ID: Final = "org.matrix.msc3881.device_id"
NO_BADGE: Final = "org.matrix.msc4076.disable_badge_count"

MAX_APP_ID_CHARS: Final = 64
MAX_PUSHKEY_BYTES: Final = 512
MAX_TEXT_CHARS: Final = 1024
MAX_URL_CHARS: Final = 2048
MAX_DATA_BYTES: Final = 16 * 1024
_TEXTS: Final = ("app_display_name", "device_display_name", "lang")


@attrs.frozen(eq=False)
class Pushers:
    """Lists and sets pushers; `may_mail` is whether the server sends notifications by e-mail."""

    _database: Database
    _writer: PusherWriter
    _may_mail: bool

    async def of_user(self, user_id: UserID) -> list[PusherRecord]:
        """List the stored pushers of a user."""
        return await self._database.read(storage.list_of_user, user_id)

    async def shown_to(self, requester: Requester) -> list[dict[str, Any]]:
        """List the requester's pushers as clients see them."""
        return [_rendered(record) for record in await self.of_user(requester.user_id)]

    async def change(self, requester: Requester, body: JsonObject) -> None:
        """Set or delete one of the requester's pushers.

        Raises: MissingParam, InvalidParam, BadJson, ThreepidNotFound, Forbidden.
        """
        for name in ("kind", "app_id", "pushkey"):
            if name not in body:
                raise MissingParam(f"{name} is missing")
        app_id, pushkey = _app_id(body), _pushkey(body)
        if body["kind"] is None:
            await self._writer.delete(requester.user_id, app_id, pushkey)
            return
        wish = _parse_pusher(requester, app_id, pushkey, body)
        if wish.kind == HTTP:
            check_gateway(body["data"])
        elif wish.kind == EMAIL:
            await self._check_email(wish)
        else:
            raise InvalidParam("kind must be http or email")
        await self._writer.put(wish)

    async def _check_email(self, wish: PusherRequest) -> None:
        if not self._may_mail:
            raise InvalidParam("Notifications by e-mail are disabled on this server")
        if wish.app_id != EMAIL_APP_ID:
            raise InvalidParam(f"app_id of an email pusher must be {EMAIL_APP_ID}")
        owner = await self._database.read(storage.owner_of_address, EMAIL, wish.pushkey)
        if owner != wish.user_id:
            raise ThreepidNotFound("pushkey must be an e-mail address of your account")


def check_gateway(content: Mapping[str, Any]) -> None:
    """Reject pusher data without a valid gateway URL. Raises: MissingParam, InvalidParam."""
    url = content.get("url")
    if url is None:
        raise MissingParam("data.url is missing")
    if not isinstance(url, str) or len(url) > MAX_URL_CHARS:
        raise InvalidParam(f"data.url must be a URL of at most {MAX_URL_CHARS} characters")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise InvalidParam("data.url is not a valid URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise InvalidParam("data.url must be an HTTPS URL without user name and password")
    if parts.path != GATEWAY_PATH:
        raise InvalidParam(f"data.url must have the path {GATEWAY_PATH}")


def _parse_pusher(
    requester: Requester, app_id: str, pushkey: str, body: JsonObject
) -> PusherRequest:
    missing = [name for name in (*_TEXTS, "data") if body.get(name) is None]
    if missing:
        raise MissingParam(f"Missing parameters: {', '.join(missing)}")
    for name in (*_TEXTS, "kind", "profile_tag"):
        _check_text(name, body.get(name, ""))
    content = body["data"]
    if not isinstance(content, dict):
        raise BadJson("data must be an object")
    encoded = orjson.dumps(content).decode()
    if len(encoded) > MAX_DATA_BYTES:
        raise InvalidParam(f"data must not exceed {MAX_DATA_BYTES} bytes")
    return PusherRequest(
        user_id=requester.user_id,
        app_id=app_id,
        pushkey=pushkey,
        kind=body["kind"],
        app_display_name=body["app_display_name"],
        device_display_name=body["device_display_name"],
        profile_tag=body.get("profile_tag", ""),
        lang=body["lang"],
        data=encoded,
        enabled=_flag(body, ENABLED, default=True),
        device_id=requester.device_id or "",
        # A device that enables or disables the pusher of another device does not take it over.
        keeps_device=ENABLED in body,
        is_alone=not _flag(body, "append", default=False),
    )


def _app_id(body: JsonObject) -> str:
    app_id = body["app_id"]
    _check_text("app_id", app_id)
    if not app_id or len(app_id) > MAX_APP_ID_CHARS:
        raise InvalidParam(f"app_id must have 1 to {MAX_APP_ID_CHARS} characters")
    return str(app_id)


def _pushkey(body: JsonObject) -> str:
    pushkey = body["pushkey"]
    _check_text("pushkey", pushkey)
    if not pushkey or len(pushkey.encode()) > MAX_PUSHKEY_BYTES:
        raise InvalidParam(f"pushkey must have 1 to {MAX_PUSHKEY_BYTES} bytes")
    if body["kind"] == EMAIL:
        return str(pushkey).strip().casefold()
    return str(pushkey)


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise BadJson(f"{name} must be a string")
    if len(value) > MAX_TEXT_CHARS or "\x00" in value:
        raise InvalidParam(f"{name} must have at most {MAX_TEXT_CHARS} characters and no NUL")


def _flag(body: JsonObject, name: str, *, default: bool) -> bool:
    value = body.get(name, default)
    if not isinstance(value, bool):
        raise BadJson(f"{name} must be true or false")
    return value


def _rendered(record: PusherRecord) -> dict[str, Any]:
    rendered = {
        "app_id": record.app_id,
        "pushkey": record.pushkey,
        "kind": record.kind,
        "app_display_name": record.app_display_name,
        "device_display_name": record.device_display_name,
        "profile_tag": record.profile_tag,
        "lang": record.lang,
        "data": orjson.Fragment(record.data),
        ENABLED: bool(record.enabled),
    }
    if record.device_id:
        rendered[DEVICE_ID] = record.device_id
    return rendered
