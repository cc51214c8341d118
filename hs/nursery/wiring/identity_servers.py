"""The servers that know or check addresses for us: identity servers, text messages, captchas."""

import attrs

from hs.nursery.process_base import Foundation
from hs.nursery.wiring.http_clients import Outside
from hs.services.accounts.terms.captcha import Captcha, Recaptcha
from hs.services.accounts.threepids.identity_servers import IdentityServers
from hs.services.accounts.threepids.msisdn_delegate import PhoneDelegate


@attrs.frozen(eq=False, kw_only=True)
class AddressServers:
    """What UIA, third-party identifiers and invites ask; `captcha` is None without its keys."""

    identity_servers: IdentityServers
    phones: PhoneDelegate
    captcha: Captcha | None


def wire_address_servers(ground: Foundation, outside: Outside) -> AddressServers:
    """Build the clients of these servers."""
    settings = ground.settings
    captcha, key = settings.captcha, settings.captcha.recaptcha_private_key
    return AddressServers(
        identity_servers=IdentityServers(ground.database, outside.direct, ground.signer),
        phones=PhoneDelegate(settings.delegates.msisdn, outside.trusted),
        captcha=None
        if key is None
        else Recaptcha(outside.http, captcha.recaptcha_siteverify_api, key),
    )
