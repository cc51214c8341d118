"""Server ACLs: `deny` wins over `allow`, and the port is ignored."""

from typing import Any

import pytest

from hs.core.edus import Edu, parse_edu, rooms_of_edu, without_denied_rooms
from hs.core.ids import RoomID
from hs.core.server_acl import EVERYONE, parse_server_acl

EVIL = {"allow": ["*"], "deny": ["evil.com", "*.Evil.com"], "allow_ip_literals": False}


@pytest.mark.parametrize(
    ("content", "server", "expected"),
    [
        (EVIL, "good.com", True),
        (EVIL, "evil.com", False),
        (EVIL, "EVIL.com:8448", False),
        (EVIL, "deep.evil.com", False),
        (EVIL, "1.2.3.4", False),
        (EVIL, "1.2.3.4:80", False),
        (EVIL, "[::1]:80", False),
        ({"allow": ["*"]}, "[::1]", True),
        ({"allow": ["[::1]"]}, "[::1]:8448", True),
        ({"allow": ["*"], "allow_ip_literals": "false"}, "1.2.3.4", True),
        ({"deny": []}, "good.com", False),
        ({"allow": "*"}, "good.com", False),
        ({"allow": [1, "good.???"]}, "good.com", True),
    ],
)
def test_acl_permits_servers_by_specification(
    content: dict[str, Any], server: str, expected: bool
) -> None:
    assert parse_server_acl(content).permits(server) is expected


def test_room_without_acl_permits_every_server() -> None:
    assert EVERYONE.permits("1.2.3.4")


def test_parts_about_denied_rooms_are_removed_from_edus() -> None:
    denied = frozenset({RoomID("!no:here")})
    receipts = Edu("m.receipt", {"!no:here": {}, "!yes:here": {"m.read": {}}})

    assert without_denied_rooms(receipts, denied) == Edu("m.receipt", {"!yes:here": {"m.read": {}}})
    assert without_denied_rooms(Edu("m.receipt", {"!no:here": {}}), denied) is None
    assert without_denied_rooms(Edu("m.typing", {"room_id": "!no:here"}), denied) is None
    assert without_denied_rooms(Edu("m.presence", {}), denied) == Edu("m.presence", {})
    assert rooms_of_edu(receipts) == {"!no:here", "!yes:here"}


@pytest.mark.parametrize("value", [None, [], {"edu_type": 1, "content": {}}, {"edu_type": "m.x"}])
def test_malformed_edu_is_skipped(value: object) -> None:
    assert parse_edu(value) is None
