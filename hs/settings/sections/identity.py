"""Settings of servers that know whose addresses are whose, and of captchas."""

from typing import Any
from urllib.parse import urlsplit

import attrs

from hs.settings.fields import secret, setting
from hs.settings.kinds import BOOLEAN, STRING, At, Kind, optional


def _read_url(value: Any, at: At) -> str:
    text = STRING.read(value, at)
    try:
        parts = urlsplit(text)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        at.refuse(f"{text!r:.80} is not a URL", 'write it like "https://example.org"')
    return text


URL = Kind("URL", _read_url, {"type": "string", "format": "uri"})


@attrs.frozen(kw_only=True)
class DelegateSettings:
    """Who validates addresses for this server."""

    msisdn: str | None = setting(
        optional(URL), None, "The server that sends text messages, as a URL."
    )


@attrs.frozen(kw_only=True)
class CaptchaSettings:
    """reCAPTCHA."""

    recaptcha_public_key: str | None = secret("Public key of reCAPTCHA.")
    recaptcha_private_key: str | None = secret("Private key of reCAPTCHA.")
    recaptcha_siteverify_api: str = setting(
        URL, "https://www.recaptcha.net/recaptcha/api/siteverify", "Where answers are checked."
    )


@attrs.frozen(kw_only=True)
class LookupSettings:
    """Finding users by their addresses."""

    enable_3pid_lookup: bool = setting(
        BOOLEAN, True, "Users may invite people by address, through an identity server."
    )
