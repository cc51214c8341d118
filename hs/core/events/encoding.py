"""Encoding of PDUs as canonical JSON, as strict as their room version demands."""

from collections.abc import Mapping
from typing import Any

from hs.core.canonical_json import check_canonical, encode_checked, encode_lenient, shrink_to_fit
from hs.core.versions import RoomVersion


def encode_pdu(pdu: Mapping[str, Any], rules: RoomVersion) -> bytes:
    """Encode a PDU that `check_pdu_json` has accepted or that this server has built.

    Raises: BadJson.
    """
    strict = rules.strict_canonical_json
    return shrink_to_fit(encode_checked(pdu) if strict else encode_lenient(pdu))


def check_pdu_json(pdu: Mapping[str, Any], rules: RoomVersion) -> None:
    """Check that a PDU is valid canonical JSON, where its room version demands that.

    Raises: BadJson.
    """
    if rules.strict_canonical_json:
        check_canonical(pdu)
