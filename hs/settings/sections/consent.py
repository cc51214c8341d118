"""Settings of the consent to terms of service."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from hs.settings.fields import setting
from hs.settings.kinds import BOOLEAN, JSON_OBJECT, PATH, STRING, ConfigLocation, Kind, optional


def _read_version(value: Any, at: ConfigLocation) -> str:
    # YAML reads an unquoted 1.0 as a number, and 2018-11-14 as a date.
    if isinstance(value, int | float | date) and not isinstance(value, bool):
        return str(value)
    return STRING.read(value, at)


VERSION = Kind("string or number", _read_version, {"type": ["string", "number"]})


@attrs.frozen(kw_only=True)
class ConsentSettings:
    """Consent to terms of service; disabled without a `version`."""

    version: str | None = setting(
        optional(VERSION),
        None,
        "Version of the terms; after a change all users must consent again.",
    )
    template_dir: Path | None = setting(
        optional(PATH),
        None,
        "Directory of the templates `<language>/<version>.html` and `<language>/success.html`.",
    )
    policy_name: str = setting(STRING, "Privacy Policy", "Title of the terms.")
    require_at_registration: bool = setting(BOOLEAN, False, "Require consent before registration.")
    block_events_error: str | None = setting(
        optional(STRING),
        None,
        "If set, users who have not consented cannot send events or join rooms, and get this "
        "error; "
        "`%(consent_uri)s` is the URL of the consent page.",
    )
    server_notice_content: Mapping[str, Any] = setting(
        JSON_OBJECT,
        MappingProxyType({}),
        "Content of a server notice to users who have not consented.",
        shown={},
    )
    send_server_notice_to_guests: bool = setting(BOOLEAN, False, "Send this notice to guests too.")
