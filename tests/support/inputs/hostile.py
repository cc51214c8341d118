"""Malformed and malicious requests, generated from the declarations of endpoints.

They are mostly valid, so that they pass the first checks, and wrong in a few places.
"""

import types
from typing import Any, Literal, NewType, Union, get_args, get_origin, get_type_hints
from urllib.parse import quote

import attrs
import orjson
from hypothesis import strategies as st

from hs.apis.web.request import FieldKind, FieldSource
from hs.apis.web.route import Endpoint
from hs.core.ids import EventID, RoomAlias, RoomID, UserID

Draw = st.DrawFn

TEXTS = st.one_of(
    st.sampled_from(
        [
            "", " ", ".", "..", "/", "%2F", "a\0b", "\ud800".encode("utf-8", "replace").decode(),
            "💥", "\u202e", "﷽" * 3, "null", "true", "-1", "0", "1.5", "1e400", "9" * 30, "NaN",
            "@", "@:", "@a", "!", "!:", "!a:b c", "$", "$:", "#", "#:", "@a:hs.test", "!a:hs.test",
            "#a:hs.test", "$a", "m.room.message", "m.room.member", "../../etc/passwd", "'; --",
            "s0", "t0_0", "t-1_-1", "s1_2_3_4_5_6_7_8_9", "s999999999999999999999", "{}", "[]",
            "{\"limit\": 1e9}", "x" * 300, "y" * 20_000,
        ]
    ),
    st.text(max_size=12),
)  # fmt: skip
NUMBERS = st.sampled_from(
    [0, 1, -1, 2, 10, 255, 2**31, 2**53 - 1, 2**53, -(2**53), 2**63 - 1, 2**63, 2**64, 10**40]
)
FLOATS = st.sampled_from([0.0, -0.0, 1.0, 1.5, -2.5e10, 1e300])
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, FLOATS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)
# Bodies that no JSON encoder would produce.
RAW_BODIES = st.sampled_from(
    [
        b"", b"{", b"}", b"null", b"[]", b"3", b'"text"', b"NaN", b'{"a": NaN}', b'{"a": Infinity}',
        b'{"a": 1e999}', b'{"a": -0}', b'{"a": 1, "a": 2}', b"\xff\xfe{}", b'{"a": "\xff"}',
        b'{"a": "\\ud800"}', b'{"\\u0000": 1}', b'\xef\xbb\xbf{"msgtype": "m.text"}',
        b"[" * 100_000, b'{"a":' * 50_000, b"[" * 150 + b"]" * 150,
        b'{"a":' * 80 + b"1" + b"}" * 80,
        b'{"a": ' + b"9" * 5000 + b"}", b'{"a": "' + b"x" * 70_000 + b'"}', b"{}" + b" " * 200_000,
        b'{"msgtype": "m.text", "msgtype": "m.image", "body": "b"}', b"{} {}", b"{'a': 1}",
    ]
)  # fmt: skip
# Valid and invalid values of the headers that endpoints read.
HEADERS = st.sampled_from(
    [
        "bytes=0-", "bytes=-1", "bytes=1-2", "bytes=2-1", "bytes=99-", "bytes=0-0,2-3", "bytes=",
        "bytes=" + "9" * 40 + "-", "lines=1-2", "*", '"a"', 'W/"a", "b"', "-", "1", "a" * 2000,
    ]
)  # fmt: skip
EVENT_TYPES = (
    "m.room.message", "m.room.member", "m.room.power_levels", "m.room.name", "m.room.topic",
    "m.room.join_rules", "m.room.history_visibility", "m.room.canonical_alias", "m.room.avatar",
    "m.room.server_acl", "m.room.create", "m.room.redaction", "m.room.encrypted", "m.reaction",
    "m.room.tombstone", "m.room.guest_access", "m.room.pinned_events", "m.space.child",
    "m.room.third_party_invite", "m.room.encryption", "org.example.own", "m.tag", "m.direct",
    "m.push_rules", "m.ignored_user_list", "m.fully_read", "m.poll.start",
)  # fmt: skip
# Keys of event content that the server reads.
CONTENT_KEYS = (
    "membership", "users", "users_default", "events", "state_default", "ban", "invite",
    "notifications", "join_rule", "allow", "history_visibility", "alias", "alt_aliases", "allow_ip",
    "deny", "room_version", "predecessor", "creator", "type", "m.relates_to", "m.new_content",
    "msgtype", "body", "formatted_body", "url", "info", "redacts", "via", "order", "displayname",
    "avatar_url", "reason", "join_authorised_via_users_server", "third_party_invite", "algorithm",
    "replacement_room", "ignored_users", "global", "tags", "m.mentions", "name", "topic",
)  # fmt: skip


_FILTER_KEYS = (
    "room", "timeline", "state", "ephemeral", "account_data", "presence", "event_fields",
    "event_format", "limit", "types", "not_types", "senders", "not_senders", "rooms", "not_rooms",
    "lazy_load_members", "include_redundant_members", "contains_url", "include_leave",
    "unread_thread_notifications", "related_by_senders", "related_by_rel_types",
)  # fmt: skip
_RULE_KEYS = (
    "actions", "conditions", "pattern", "kind", "key", "is", "value", "set_tweak", "default",
    "enabled", "rule_id", "room_member_count", "event_match", "event_property_is", "notify",
)  # fmt: skip
# Keys of objects that are not event content, by the name of the field that contains them.
KEYS_OF = {
    "definition": _FILTER_KEYS,
    "filter": (*_FILTER_KEYS, "generic_search_term", "room_types"),
    "rule": _RULE_KEYS,
    "content": (*CONTENT_KEYS, *_RULE_KEYS, "order", "thread_id"),
    "markers": ("m.fully_read", "m.read", "m.read.private"),
    "auth": ("type", "session", "password", "identifier", "user", "token"),
    "identifier": ("type", "user", "medium", "address"),
    "lists": ("a", "b", "c"),
}
_SLIDING = (
    "ranges", "timeline_limit", "required_state", "filters", "is_dm", "is_invite", "room_types",
    "enabled", "since", "limit", "lists", "rooms", "include", "exclude", "lazy_members",
    "to_device", "e2ee", "account_data", "receipts", "typing",
)  # fmt: skip


@attrs.frozen
class KnownIdentifiers:
    """Identifiers of objects that exist on the server, for requests to refer to."""

    user_ids: tuple[str, ...]
    room_ids: tuple[str, ...]
    event_ids: tuple[str, ...]
    aliases: tuple[str, ...]
    device_ids: tuple[str, ...]
    tokens: tuple[str, ...]
    media_ids: tuple[str, ...]


@attrs.frozen
class HostileRequest:
    """A request; `is_ours` if it is sent with a valid access token."""

    endpoint: Endpoint
    target: str
    headers: dict[str, str]
    body: bytes
    is_ours: bool

    def __str__(self) -> str:
        body = self.body if len(self.body) <= 500 else self.body[:500] + b"..."
        return f"{self.endpoint.method} {self.target[:500]} {body!r}"


@st.composite
def hostile_requests(draw: Draw, endpoint: Endpoint, known: KnownIdentifiers) -> Any:
    """Draw a request to an endpoint."""
    parts = _Parts(draw, known)
    if endpoint.parser is not None:
        request_class = endpoint.parser.request_class
        hints = get_type_hints(request_class)
        for field in attrs.fields(request_class):
            source = field.metadata.get("source")
            if source is not None:
                parts.add(field, source, hints[field.name])
    kinds = ["application/json", "text/plain", "image/png", ""]
    headers = {**parts.headers, "content-type": draw(st.sampled_from(kinds))}
    is_ours = draw(_nearly_always(st.just(True), st.just(False)))
    if not is_ours:
        headers["authorization"] = draw(
            st.sampled_from(["", "Bearer", "Bearer x", "Basic eDp4", "Bearer " + "t" * 3000])
        )
    return HostileRequest(endpoint, parts.target(endpoint), headers, parts.body(), is_ours)


def _mostly(valid: st.SearchStrategy[Any], invalid: st.SearchStrategy[Any]) -> Any:
    """Draw a valid value nine times out of ten."""
    return st.integers(0, 9).flatmap(lambda chance: invalid if chance == 9 else valid)


def _nearly_always(valid: st.SearchStrategy[Any], invalid: st.SearchStrategy[Any]) -> Any:
    return st.integers(0, 29).flatmap(lambda chance: invalid if chance == 29 else valid)


@attrs.define
class _Parts:
    """A request under construction."""

    draw: Draw
    known: KnownIdentifiers
    path: dict[str, str] = attrs.Factory(dict)
    query: list[tuple[str, str]] = attrs.Factory(list)
    headers: dict[str, str] = attrs.Factory(dict)
    fields: dict[str, Any] | None = None
    whole: bytes | None = None

    def add(self, field: Any, source: FieldSource, value_type: Any) -> None:
        name = source.name or field.name
        is_optional = field.default is not attrs.NOTHING
        is_omitted = is_optional and self.draw(st.integers(0, 2)) < 2
        match source.kind:
            case FieldKind.PATH:
                self.path[name] = self._text(name, value_type)
            case FieldKind.QUERY if not is_omitted:
                # No long polls in these tests.
                is_timeout = name in ("timeout", "timeout_ms")
                text = "0" if is_timeout else self._text(name, value_type)
                self.query += [(name, text)] * self.draw(st.sampled_from([1, 1, 1, 2]))
            case FieldKind.HEADER if not is_omitted:
                self.headers[name] = self.draw(HEADERS)
            case FieldKind.BODY:
                self.fields = self.fields or {}
                if not is_omitted:
                    self.fields[name] = self.draw(_mostly(self._json(name, value_type), JSON))
            case FieldKind.WHOLE_BODY | FieldKind.EVENT_CONTENT:
                self.fields = self.draw(
                    st.one_of(self._contents(name), self._json(name, value_type))
                )
            case FieldKind.RAW_BODY | FieldKind.BODY_STREAM:
                self.whole = self.draw(RAW_BODIES)

    def target(self, endpoint: Endpoint) -> str:
        path = self.draw(st.sampled_from(endpoint.paths))
        for name, text in self.path.items():
            path = path.replace(f"{{{name}}}", quote(text, safe=""))
        # Parameters that the request class does not take.
        path = path.replace("{", "").replace("}", "")
        raw = self.draw(
            _nearly_always(st.just(""), st.sampled_from(["%", "%00", "%ff", "%C0%AF", "//"]))
        )
        query = "&".join(f"{quote(name)}={quote(text, safe='')}" for name, text in self.query)
        suffix = self.draw(
            _nearly_always(st.just(""), st.sampled_from(["&=", "&&&", "&x=%ff", "&x=%00"]))
        )
        return f"{path}{raw}?{query}{suffix}"

    def body(self) -> bytes:
        if self.whole is not None or self.fields is None:
            return self.whole or b""
        encoded = st.just(self.fields).map(_encoded)
        body: bytes = self.draw(_mostly(encoded, RAW_BODIES))
        return body

    def _text(self, name: str, value_type: Any) -> str:
        value: str = self.draw(_mostly(self._json(name, value_type).map(_as_text), TEXTS))
        return value

    def _json(self, name: str, value_type: Any) -> st.SearchStrategy[Any]:
        """Return a strategy for values of a type; strings are chosen by the name of their field."""
        if isinstance(value_type, NewType):
            return st.sampled_from(self._ids(value_type) or ("x",))
        origin, inner = get_origin(value_type), get_args(value_type)
        if origin in (Union, types.UnionType):
            return st.one_of([self._json(name, member_type) for member_type in inner])
        if origin is Literal:
            return st.sampled_from(inner)
        if origin in (list, tuple):
            return st.lists(self._json(name, inner[0]), max_size=3)
        if origin is dict or value_type is dict:
            return self._contents(name)
        if attrs.has(value_type):
            hints = get_type_hints(value_type)
            return st.fixed_dictionaries(
                {key: _mostly(self._json(key, hint), JSON) for key, hint in hints.items()}
            )
        by_type = {
            str: st.sampled_from(self._named(name)),
            int: st.integers(-1, 50),
            bool: st.booleans(),
            type(None): st.none(),
        }
        return by_type.get(value_type, JSON)

    def _ids(self, id_type: Any) -> tuple[str, ...]:
        return {
            UserID: self.known.user_ids,
            RoomID: self.known.room_ids,
            EventID: self.known.event_ids,
            RoomAlias: self.known.aliases,
        }.get(id_type, ())

    def _named(self, name: str) -> tuple[str, ...]:
        if name in ("since", "from_", "from", "to", "at", "from_token", "to_token", "pos"):
            return self.known.tokens or ("s0",)
        values = {
            "room_id": self.known.room_ids,
            "user_id": self.known.user_ids,
            "event_id": self.known.event_ids,
            "device_id": self.known.device_ids,
            "event_type": EVENT_TYPES,
            "type": EVENT_TYPES,
            "room_id_or_alias": (*self.known.room_ids, *self.known.aliases),
            "receipt_type": ("m.read", "m.read.private", "m.fully_read"),
            "rel_type": ("m.annotation", "m.replace", "m.thread", "m.reference"),
            "state_key": ("", *self.known.user_ids),
            "dir": ("b", "f"),
            "scope": ("global",),
            "kind": ("override", "underride", "sender", "room", "content"),
            "rule_id": (".m.rule.master", "own", *self.known.room_ids),
            "attribute": ("enabled", "actions"),
            "key_name": ("displayname", "avatar_url", "org.example.key"),
            "filter_id": ("1", "2"),
            "room_version": ("11", "10", "9", "6", "1", "12"),
            "new_version": ("11", "10", "9", "6", "1", "12"),
            "tag": ("m.favourite", "u.own"),
            "order": ("0.5",),
            "server_name": ("hs.test", "hs.test", "remote.invalid"),
            "media_id": self.known.media_ids,
            "method": ("crop", "scale"),
            "order_by": ("rank", "recent"),
            "keys": ("content.body", "content.name", "content.topic"),
            "key": ("room_id", "sender", *self.known.event_ids),
            "search_term": ("b", "fuzz", '"b" -c'),
            "url": ("http://127.0.0.1:1/", "https://[::1]/", "http://hs.test:1/a?b#c", "mxc://a/b"),
        }.get(name, ())
        return tuple(values) or ("x", "1", "m.text", "hs.test")

    def _contents(self, name: str) -> st.SearchStrategy[Any]:
        """Return a strategy for objects with keys that the server reads."""
        keys = st.sampled_from(KEYS_OF.get(name, (*CONTENT_KEYS, *_SLIDING)))
        values = self._values(keys)
        deeper = st.one_of(
            values,
            st.lists(values, max_size=3),
            st.dictionaries(keys, values, max_size=3),
            st.dictionaries(keys, st.dictionaries(keys, values, max_size=3), max_size=2),
        )
        return st.dictionaries(_mostly(keys, TEXTS), deeper, max_size=4)

    def _values(self, keys: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
        known = self.known
        related = st.fixed_dictionaries(
            {
                "rel_type": st.one_of(
                    st.sampled_from(["m.annotation", "m.replace", "m.thread", "m.reference"]), JSON
                ),
                "event_id": st.one_of(st.sampled_from(known.event_ids or ("$x",)), JSON),
            },
            optional={"key": JSON, "m.in_reply_to": JSON, "is_falling_back": JSON},
        )
        levels = st.dictionaries(st.sampled_from(known.user_ids), st.sampled_from([0, 50, 100, -1]))
        ids = st.sampled_from((*known.user_ids, *known.room_ids, *known.aliases, *known.event_ids))
        memberships = st.sampled_from(["join", "invite", "leave", "ban", "knock"])
        types = st.sampled_from(EVENT_TYPES)
        return st.one_of(
            related, levels, ids, memberships, types, keys, NUMBERS, st.booleans(), TEXTS, JSON
        )


def _encoded(value: Any) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        # Integers beyond 64 bits.
        return repr(value).replace("'", '"').encode("utf-8", "replace")


def _as_text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "", True: "true", False: "false"}[value]
    if isinstance(value, str | int | float):
        return str(value)
    return _encoded(value).decode("utf-8", "replace")
