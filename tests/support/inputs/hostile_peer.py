"""Requests and responses of a malicious server, correctly signed, made from the endpoints' fields.

Everything comes from one random generator, so a seed repeats a run, as far as the server answers
the same.
"""

import random
from collections.abc import Callable, Mapping
from typing import Any, Literal, NewType, get_args, get_origin, get_type_hints
from urllib.parse import quote

import attrs
import canonicaljson
import orjson

from hs.apis.web.request import FieldKind, FieldSource
from hs.apis.web.route import Endpoint
from hs.apis.web.value_conversion import unwrapped_type
from hs.core.canonical_json import JsonObject
from hs.core.events.hashes import content_hash, essential_bytes, event_id_of
from hs.core.ids import EventID, RoomAlias, RoomID, UserID
from hs.core.signing.keys import Signer
from hs.core.unpadded_base64 import encode_base64
from hs.core.versions import room_version
from tests.support.inputs.mutations import ODD_VALUES, mutated

EDU_TYPES = (
    "m.typing", "m.receipt", "m.presence", "m.direct_to_device", "m.device_list_update",
    "m.signing_key_update", "org.example.unknown",
)  # fmt: skip
EVENT_TYPES = (
    "m.room.message", "m.room.member", "m.room.power_levels", "m.room.name", "m.room.topic",
    "m.room.join_rules", "m.room.history_visibility", "m.room.server_acl", "m.room.create",
    "m.room.redaction", "m.room.third_party_invite", "m.room.encryption", "m.room.tombstone",
    "m.room.canonical_alias", "m.room.aliases", "m.room.policy", "m.space.child", "m.reaction",
    "m.room.retention", "m.room.pinned_events", "m.room.guest_access", "x.own",
)  # fmt: skip
CONTENTS: tuple[JsonObject, ...] = (
    {"body": "b", "msgtype": "m.text"},
    {"membership": "join", "displayname": "M"},
    {"membership": "leave"},
    {"membership": "invite"},
    {"membership": "ban"},
    {"users": {"@m:x": 100}, "events": {"m.room.name": 50}, "users_default": 0},
    {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": "!a:b"}]},
    {"join_rule": "public"},
    {"history_visibility": "joined"},
    {"allow": ["*"], "deny": ["*.evil"], "allow_ip_literals": True},
    {"via": ["hs.test"], "order": "a", "suggested": True},
    {"m.relates_to": {"rel_type": "m.replace", "event_id": "$x"}, "m.new_content": {"body": "c"}},
    {"m.relates_to": {"rel_type": "m.thread", "event_id": "$x"}, "body": "c"},
    {"alias": "#a:hs.test", "alt_aliases": ["#b:hs.test"]},
    {"public_key": "x", "via": "hs.test"},
    {"max_lifetime": 1, "min_lifetime": 0},
    {"name": "n", "topic": "t", "url": "mxc://a/b", "algorithm": "m.megolm.v1.aes-sha2"},
    {
        "membership": "invite",
        "third_party_invite": {
            "display_name": "a",
            "signed": {
                "mxid": "@alice:hs.test",
                "token": "x",
                "signatures": {"id.example": {"ed25519:0": "A" * 86}},
            },
        },
    },
    {"display_name": "a", "public_keys": [{"public_key": "A" * 43, "key_validity_url": "x:y"}]},
    {"membership": "join", "join_authorised_via_users_server": "@alice:hs.test"},
)
# Users and others that a member event may name.
STATE_KEYS = (
    "", "x", "@", "@:", "@a", "@a:", "@:hs.test", "@A B:hs.test", "@a:hs.test\0", "@a:hs.test:x",
    "@" + "a" * 254, "@é:hs.test", "@nobody:hs.test", "@other:localhost", "!a:hs.test", "a" * 300,
)  # fmt: skip
NUMBERS = (0, 1, 10, 20, 21, 100, 101, 1000, -1, 2**31, 2**53, 2**63, 10**30, 1_700_000_000_000)


@attrs.define
class PeerRoom:
    """A room as the malicious server knows it: `state` by type and state key, and the end."""

    room_id: str
    version: str
    state: dict[tuple[str, str], JsonObject] = attrs.Factory(dict)
    event_ids: list[str] = attrs.Factory(list)
    depth: int = 10


@attrs.define(eq=False)
class HostilePeer:
    """A malicious server. `known` are names of what exists on the attacked server."""

    rng: random.Random
    signer: Signer
    target: str
    rooms: list[PeerRoom] = attrs.Factory(list)
    local_users: list[str] = attrs.Factory(list)
    media_ids: list[str] = attrs.Factory(lambda: ["nothing"])
    now_ms: Callable[[], int] = lambda: 1_700_000_000_000
    serial: int = 0

    @property
    def user_id(self) -> str:
        """A user of the malicious server."""
        return f"@mallory:{self.signer.server_name}"

    def any_room(self) -> PeerRoom:
        """Return one of the rooms."""
        return self.rng.choice(self.rooms)

    # Requests

    def request(self, endpoint: Endpoint) -> tuple[str, bytes, dict[str, str]]:
        """Return URI, body and headers of a request, mostly valid, signed."""
        room = self.any_room()
        if "/invite/" in endpoint.pattern and self._chance(0.7):
            # Only the malicious server is in it.
            self.serial += 1
            room = PeerRoom(f"!r{self.serial}:{self.signer.server_name}", "11", room.state, ["$x"])
        path, query, fields, whole = {}, [], {}, None
        parser = endpoint.parser
        if parser is not None:
            hints = get_type_hints(parser.request_class)
            for field in attrs.fields(parser.request_class):
                source: FieldSource | None = field.metadata.get("source")
                if source is None:
                    continue
                name = source.name or field.name
                is_optional = field.default is not attrs.NOTHING
                if source.kind is FieldKind.PATH:
                    path[name] = self._text(name, hints[field.name], room)
                elif source.kind is FieldKind.QUERY and not (is_optional and self._chance(0.5)):
                    text = self._text(name, hints[field.name], room)
                    query += [(name, text)] * self.rng.choice((1, 1, 1, 2, 30))
                elif source.kind is FieldKind.BODY and not (is_optional and self._chance(0.3)):
                    fields[name] = self._json(name, hints[field.name], room)
                elif source.kind in (FieldKind.WHOLE_BODY, FieldKind.RAW_BODY):
                    whole = self._whole_body(endpoint, room, path)
        if isinstance(fields.get("event"), dict) and self._chance(0.9):
            path |= {"room_id": room.room_id, "event_id": self.id_of(fields["event"], room)}
        content = whole if whole is not None else (fields or None)
        if content is not None and self._chance(0.3):
            content = mutated(self.rng, content, self.rng.choice((1, 1, 2, 5)))
        body = b"" if content is None else _encode(content)
        uri = self._uri(endpoint, path, query)
        return uri, body, self._headers(endpoint.method, uri, body)

    def _uri(self, endpoint: Endpoint, path: Mapping[str, str], query: Any) -> str:
        uri = self.rng.choice(endpoint.paths)
        for name, text in path.items():
            uri = uri.replace(f"{{{name}}}", quote(text, safe=""))
        uri = uri.replace("{", "").replace("}", "")
        if self._chance(0.02):
            uri += self.rng.choice(("%", "%00", "%ff", "/", "//", "?", "#x"))
        parameters = "&".join(f"{quote(name)}={quote(text, safe='')}" for name, text in query)
        if self._chance(0.03):
            parameters += self.rng.choice(("&=", "&x=%ff", "&&", "&x=%00", "&v=$"))
        return f"{uri}?{parameters}" if parameters else uri

    def sign_headers(self, method: str, uri: str, body: bytes) -> dict[str, str]:
        """Return the headers of a request, correctly signed."""
        return {"authorization": _header(self._signature(method, uri, body))}

    def _signature(self, method: str, uri: str, body: bytes) -> dict[str, str]:
        message = {
            "method": method,
            "uri": uri,
            "origin": self.signer.server_name,
            "destination": self.target,
        }
        if body:
            message["content"] = orjson.loads(body)
        signature = self.signer.key.sign(canonicaljson.encode_canonical_json(message))
        return {
            "origin": self.signer.server_name,
            "destination": self.target,
            "key": self.signer.key.key_id,
            "sig": signature,
        }

    def _headers(self, method: str, uri: str, body: bytes) -> dict[str, str]:
        fields = self._signature(method, uri, body)
        if self._chance(0.03):
            name = self.rng.choice(tuple(fields))
            odd = ("", "x", "ed25519:a\x7f", "[::1", "a" * 300, "1.2.3.4:99999")
            fields[name] = self.rng.choice(odd)
        header = _header(fields)
        if self._chance(0.01):
            header = self.rng.choice(("", "X-Matrix", "Bearer x", "X-Matrix ,,,", header[:40]))
        headers = {"authorization": header, "content-type": "application/json"}
        if self._chance(0.02):
            headers["content-type"] = self.rng.choice(("", "text/plain", "x/y; charset=zzz"))
        return headers

    def _text(self, name: str, declared: Any, room: PeerRoom) -> str:
        value = self._valid(name, declared, room)
        if self._chance(0.15):
            value = self.rng.choice((*ODD_VALUES[:40], mutated(self.rng, value)))
        text = value if isinstance(value, str) else _encode(value).decode()
        return text[:3000]

    def _json(self, name: str, declared: Any, room: PeerRoom) -> Any:
        plain = unwrapped_type(declared)
        inner = get_args(plain)
        if get_origin(plain) is list:
            return [self._valid(name, inner[0], room) for _ in range(self.rng.randrange(4))]
        special: dict[str, Callable[[], Any]] = {
            "device_keys": lambda: {self.rng.choice(self.local_users): []},
            "one_time_keys": lambda: {
                self.rng.choice(self.local_users): {"DEVICE": "signed_curve25519"}
            },
            "server_keys": lambda: {
                self.rng.choice((self.target, self.signer.server_name)): {
                    "ed25519:x": {"minimum_valid_until_ts": 0}
                }
            },
            "filter": lambda: {"generic_search_term": "a", "room_types": [None, "m.space"]},
            "event": lambda: self.event(room, "invite"),
            "room_version": lambda: room.version,
            "invite_room_state": lambda: [*list(room.state.values())[:3], {"type": "x"}],
            "invites": lambda: [{"room_id": room.room_id, "sender": self.user_id, "signed": {}}],
        }
        return special[name]() if name in special else self._valid(name, declared, room)

    def _valid(self, name: str, declared: Any, room: PeerRoom) -> Any:
        plain = unwrapped_type(declared)
        if get_origin(plain) is Literal:
            return self.rng.choice(get_args(plain))
        users = (*self.local_users, self.user_id)
        by_name: dict[str, tuple[Any, ...]] = {
            "room_id": (room.room_id, room.room_id, "!nothing:hs.test"),
            "event_id": (*room.event_ids[-20:], "$nothing"),
            "v": (*room.event_ids[-20:], "$nothing"),
            "earliest_events": tuple(room.event_ids[-20:]) or ("$x",),
            "latest_events": tuple(room.event_ids[-20:]) or ("$x",),
            "user_id": users,
            "mxid": users,
            "ver": ("1", "11", "12"),
            "txn_id": ("1", "2", str(self.serial)),
            "media_id": tuple(self.media_ids),
            "server_name": (self.target, self.signer.server_name),
            "room_alias": ("#a:hs.test", "#nothing:hs.test", f"#a:{self.signer.server_name}"),
            "field": ("displayname", "avatar_url", "x"),
            "timeout_ms": (0, 1),
            "minimum_valid_until_ts": (0, 2**50),
        }
        if name in by_name:
            return self.rng.choice(by_name[name])
        if isinstance(declared, NewType):
            ids: dict[Any, str] = {
                UserID: "user_id",
                RoomID: "room_id",
                EventID: "event_id",
                RoomAlias: "alias",
            }
            return self.rng.choice(by_name.get(ids.get(declared, ""), ("x",)))
        if plain is bool:
            return self.rng.choice(("true", "false")) if name == "suggested_only" else True
        return self.rng.choice(NUMBERS) if plain is int else "x"

    def _whole_body(self, endpoint: Endpoint, room: PeerRoom, path: dict[str, str]) -> Any:
        if endpoint.pattern.endswith("/send/{txn_id}"):
            return self.transaction()
        membership = "invite"
        for each in ("join", "leave", "knock"):
            if f"send_{each}" in endpoint.pattern:
                membership = each
        event = self.event(room, membership)
        if self._chance(0.8):
            path["room_id"] = room.room_id
            path["event_id"] = self.id_of(event, room)
        return event

    # Transactions

    def transaction(self) -> JsonObject:
        """Return the content of a transaction."""
        self.serial += 1
        too_many = self._chance(0.01)
        pdu_counts = (51, 300) if too_many else (0, 1, 1, 3, 10, 50)
        edu_counts = (101, 500) if too_many else (0, 1, 3, 10, 100)
        pdus = [self.pdu() for _ in range(self.rng.choice(pdu_counts))]
        edus = [self.edu() for _ in range(self.rng.choice(edu_counts))]
        return {
            "origin": self.signer.server_name,
            "origin_server_ts": self.now_ms(),
            "pdus": pdus,
            "edus": edus,
        }

    def pdu(self) -> JsonObject:
        """Return an event of a room, valid or changed, mostly signed after the change."""
        room = self.any_room()
        rng = self.rng
        if self._chance(0.1):
            return self.changed_copy(room)
        content = rng.choice(CONTENTS)
        if self._chance(0.5):
            content = mutated(rng, content, rng.choice((1, 2)))
        event_type = rng.choice(EVENT_TYPES)
        state_key = rng.choice(
            (None, "", self.user_id, rng.choice(STATE_KEYS), rng.choice(self.local_users))
        )
        if self._chance(0.5):
            event_type, state_key, content = "m.room.message", None, {"body": "b"}
        pdu = self.build(room, event_type, state_key, content)
        if self._chance(0.1):
            pdu["redacts"] = rng.choice((*room.event_ids[-5:], *ODD_VALUES[:30]))
        if self._chance(0.15):
            pdu["prev_events"] = [rng.choice(room.event_ids) for _ in range(rng.randrange(4))]
        if self._chance(0.1):
            pdu["prev_events"] = ["$" + "".join(rng.choices("abcdefg", k=43))]
        if self._chance(0.3):
            pdu = mutated(rng, pdu, rng.choice((1, 1, 3)))
        signed = self.signed(pdu, room) if self._chance(0.9) else pdu
        if self._chance(0.7):
            room.event_ids.append(self.id_of(signed, room))
            room.depth += 1
            del room.event_ids[:-200]
        return signed

    def changed_copy(self, room: PeerRoom) -> JsonObject:
        """Return a state event of the room with one change, signed by the malicious server."""
        original = self.rng.choice(list(room.state.values()))
        copied = {name: original[name] for name in original if name != "signatures"}
        if self._chance(0.5):
            copied |= {"sender": self.user_id, "prev_events": room.event_ids[-1:]}
        changed = mutated(self.rng, copied)
        signed: JsonObject = self.signed(changed, room) if isinstance(changed, dict) else copied
        if isinstance(signed.get("signatures"), dict) and self._chance(0.3):
            signed["signatures"] = {**original["signatures"], **signed["signatures"]}
        return signed

    def completed(self, template: JsonObject, room: PeerRoom) -> JsonObject:
        """Return the template of a handshake as a signed event, sometimes with a change."""
        self.serial += 1
        if not room_version(room.version).event_id_is_hash:
            template["event_id"] = f"$h{self.serial}:{self.signer.server_name}"
        if self._chance(0.5):
            changed = mutated(self.rng, template)
            template = changed if isinstance(changed, dict) else template
        signed: JsonObject = self.signed(template, room)
        return signed

    def event(self, room: PeerRoom, membership: str) -> JsonObject:
        """Return a signed member event of a user of the malicious server, or an invite."""
        target = self.user_id if membership != "invite" else self.rng.choice(self.local_users)
        event = self.build(room, "m.room.member", target, {"membership": membership})
        if self._chance(0.4):
            event = mutated(self.rng, event)
        signed: JsonObject = self.signed(event, room)
        return signed

    def build(
        self, room: PeerRoom, event_type: str, state_key: str | None, content: Any
    ) -> JsonObject:
        """Return an unsigned event after the last known event of a room."""
        self.serial += 1
        rules = room_version(room.version)
        keys = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", self.user_id)]
        if event_type == "m.room.member":
            keys += [("m.room.join_rules", ""), ("m.room.member", state_key or "")]
        if rules.room_id_is_create_hash:
            keys = keys[1:]
        cited = [self.id_of(room.state[key], room) for key in keys if key in room.state]
        pdu: JsonObject = {
            "type": event_type,
            "room_id": room.room_id,
            "sender": self.user_id,
            "content": content,
            "origin_server_ts": self.now_ms(),
            "depth": room.depth,
            "prev_events": list(dict.fromkeys(room.event_ids[-1:])),
            "auth_events": list(dict.fromkeys(cited)),
        }
        if state_key is not None:
            pdu["state_key"] = state_key
        if not rules.event_id_is_hash:
            pdu["event_id"] = f"$n{self.serial}:{self.signer.server_name}"
            pdu["origin"] = self.signer.server_name
            for field in ("prev_events", "auth_events"):
                pdu[field] = [[each, {"sha256": "x"}] for each in pdu[field]]
        return pdu

    def signed(self, pdu: Any, room: PeerRoom) -> Any:
        """Return an event with hash and signature; unchanged if it cannot be signed."""
        rules = room_version(room.version)
        try:
            signed = {**pdu, "hashes": {"sha256": encode_base64(content_hash(pdu, rules))}}
            signature = self.signer.key.sign(essential_bytes(signed, rules))
        except Exception:  # noqa: BLE001 any event may be meant
            return pdu
        signatures = {self.signer.server_name: {self.signer.key.key_id: signature}}
        return {**signed, "signatures": signatures}

    def id_of(self, pdu: Any, room: PeerRoom) -> str:
        """Return the ID of an event; of a malformed one, any ID."""
        try:
            return event_id_of(pdu, room_version(room.version))
        except Exception:  # noqa: BLE001 any event may be meant
            return "$malformed"

    def edu(self) -> Any:
        """Return an EDU, valid or changed."""
        room, rng = self.any_room(), self.rng
        user = rng.choice(self.local_users)
        receipt = {"event_ids": [rng.choice(room.event_ids)], "data": {"ts": 1}}
        position = rng.randrange(100)
        contents: dict[str, Any] = {
            "m.typing": {"room_id": room.room_id, "user_id": self.user_id, "typing": True},
            "m.receipt": {room.room_id: {"m.read": {self.user_id: receipt}}},
            "m.presence": {
                "push": [
                    {"user_id": self.user_id, "presence": "online", "last_active_ago": position}
                ]
            },
            "m.direct_to_device": {
                "sender": self.user_id,
                "type": "m.test",
                "message_id": str(self.serial),
                "messages": {user: {"*": {"a": 1}, "DEVICE": {"b": []}}},
            },
            "m.device_list_update": {
                "user_id": self.user_id,
                "device_id": "D",
                "stream_id": position,
                "prev_id": [position - 1],
                "keys": {"user_id": self.user_id, "device_id": "D", "keys": {}},
                "device_display_name": "d",
            },
            "m.signing_key_update": {
                "user_id": self.user_id,
                "master_key": {"user_id": self.user_id, "keys": {"ed25519:x": "x"}, "usage": []},
            },
        }
        edu_type = rng.choice(EDU_TYPES)
        edu = {"edu_type": edu_type, "content": contents.get(edu_type, {})}
        return mutated(rng, edu, rng.choice((1, 2))) if self._chance(0.6) else edu

    # Responses

    def response(self, method: str, uri: str) -> tuple[int, Any]:
        """Return status and content of the response to a request of the attacked server."""
        room = self.any_room()
        pdus = [self.pdu() for _ in range(self.rng.randrange(4))]
        state = list(room.state.values())
        ids = [self.id_of(each, room) for each in state]
        member = self.build(room, "m.room.member", self.rng.choice(self.local_users), {})
        answers: dict[str, Any] = {
            "/get_missing_events/": {"events": pdus},
            "/backfill/": {"pdus": pdus},
            "/event/": {"pdus": pdus or state[:1]},
            "/state_ids/": {"pdu_ids": ids, "auth_chain_ids": ids},
            "/state/": {"pdus": state, "auth_chain": state},
            "/event_auth/": {"auth_chain": state},
            "/send_join/": {"state": state, "auth_chain": state, "event": self.event(room, "join")},
            "/make_join/": {"room_version": room.version, "event": member},
            "/query/profile": {"displayname": "m", "avatar_url": "mxc://a/b"},
            "/query/directory": {"room_id": room.room_id, "servers": [self.signer.server_name]},
            "/user/devices/": {"user_id": self.user_id, "stream_id": 5, "devices": []},
            "/keys/query": {"device_keys": {self.user_id: {"D": {}}}},
            "/keys/claim": {"one_time_keys": {self.user_id: {"D": {}}}},
            "/send/": {"pdus": {}},
            "/policy/": {"x": {"ed25519:policy_server": "x"}},
        }
        found: Any = next((each for part, each in answers.items() if part in uri), {})
        if self._chance(0.6):
            found = mutated(self.rng, found, self.rng.choice((1, 2, 5)))
        return (self.rng.choice((400, 403, 404, 500, 502)) if self._chance(0.15) else 200), found

    def _chance(self, probability: float) -> bool:
        return self.rng.random() < probability


def _header(fields: Mapping[str, str]) -> str:
    return "X-Matrix " + ",".join(f'{name}="{value}"' for name, value in fields.items())


def _encode(value: Any) -> bytes:
    """Encode what orjson cannot: integers of any size."""
    return canonicaljson.encode_canonical_json(value)
