"""Settings about the terms of use that users agree to."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from hs.settings.fields import setting
from hs.settings.kinds import BOOLEAN, OBJECT, PATH, STRING, At, Kind, optional


def _read_version(value: Any, at: At) -> str:
    # YAML reads an unquoted 1.0 as a number.
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return STRING.read(value, at)


VERSION = Kind("string or number", _read_version, {"type": ["string", "number"]})


@attrs.frozen(kw_only=True)
class ConsentSettings:
    """Terms of use; nobody is asked to agree without a `version`."""

    version: str | None = setting(
        optional(VERSION), None, "Version of the terms; a new one asks everybody again."
    )
    template_dir: Path | None = setting(
        optional(PATH),
        None,
        "Directory with `<language>/<version>.html` of the terms, and `<language>/success.html`.",
    )
    policy_name: str = setting(STRING, "Privacy Policy", "What the terms are called.")
    require_at_registration: bool = setting(
        BOOLEAN, False, "New users must agree before they register."
    )
    block_events_error: str | None = setting(
        optional(STRING),
        None,
        "Let nobody send or join who has not agreed, and tell them this; "
        "`%(consent_uri)s` is where they can.",
    )
    server_notice_content: Mapping[str, Any] = setting(
        OBJECT,
        MappingProxyType({}),
        "A message to those who have not agreed.",
        shown={},
    )
    send_server_notice_to_guests: bool = setting(
        BOOLEAN, False, "Send that message to guests as well."
    )
