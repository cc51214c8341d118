"""Settings of third-party identifier validation by delegates, identity lookups, and captchas."""

from typing import Any
from urllib.parse import urlsplit

import attrs

from hs.settings.fields import secret, setting
from hs.settings.kinds import BOOLEAN, STRING, ConfigLocation, Kind, optional


def _read_url(value: Any, at: ConfigLocation) -> str:
    text = STRING.read(value, at)
    try:
        parts = urlsplit(text)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        # The value may contain a password.
        at.reject("not an http or https URL", 'write it like "https://example.org"')
    return text


URL = Kind("URL", _read_url, {"type": "string", "format": "uri"}, is_blank_null=True)


@attrs.frozen(kw_only=True)
class DelegateSettings:
    """The services that validate identifiers for this server."""

    msisdn: str | None = setting(
        optional(URL), None, "URL of the service that validates phone numbers by text message."
    )


@attrs.frozen(kw_only=True)
class CaptchaSettings:
    """The reCAPTCHA service."""

    recaptcha_public_key: str | None = secret("Site key of reCAPTCHA.")
    recaptcha_private_key: str | None = secret("Secret key of reCAPTCHA.")
    recaptcha_siteverify_api: str = setting(
        URL, "https://www.recaptcha.net/recaptcha/api/siteverify", "URL that verifies responses."
    )


@attrs.frozen(kw_only=True)
class LookupSettings:
    """Lookups of users by third-party identifiers."""

    enable_3pid_lookup: bool = setting(
        BOOLEAN, True, "Allow invites by e-mail address or phone number through an identity server."
    )
