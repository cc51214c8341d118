"""The canonical bytes of a PDU, as strict as its room version is."""

from collections.abc import Mapping
from typing import Any

from hs.core.canonical_json import check_canonical, encode_checked, encode_lenient, for_keeping
from hs.core.versions import RoomVersion


def encode_pdu(pdu: Mapping[str, Any], rules: RoomVersion) -> bytes:
    """Write a PDU that has been checked for its room version.

    Raises: BadJson.
    """
    strict = rules.strict_canonical_json
    return for_keeping(encode_checked(pdu) if strict else encode_lenient(pdu))


def check_pdu_json(pdu: Mapping[str, Any], rules: RoomVersion) -> None:
    """Refuse a PDU that is not the JSON its room version demands.

    Raises: BadJson.
    """
    if rules.strict_canonical_json:
        check_canonical(pdu)
