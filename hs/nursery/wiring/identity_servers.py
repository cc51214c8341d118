"""The servers that know or check addresses for us: identity servers, text messages, captchas."""

import attrs

from hs.lib.limiter import RateLimiter
from hs.nursery.foundation import Foundation
from hs.nursery.wiring.actions import RoomActions
from hs.nursery.wiring.outside import Outside
from hs.nursery.wiring.rooms import Rooms
from hs.services.accounts.captcha import Captcha, Recaptcha
from hs.services.accounts.identity_servers import IdentityServers
from hs.services.accounts.phone_delegate import PhoneDelegate
from hs.services.accounts.rate_limits import bucket_of
from hs.services.rooms.third_party_invites import ThirdPartyInvites


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


def wire_offers(
    ground: Foundation, rooms: Rooms, actions: RoomActions, servers: AddressServers
) -> ThirdPartyInvites:
    """Build what invites people by their addresses."""
    settings = ground.settings
    return ThirdPartyInvites(
        servers=servers.identity_servers,
        appender=rooms.appender,
        deciding=actions.membership.deciding,
        membership=actions.membership,
        limiter=RateLimiter(bucket_of(settings.rate_limits.rc_third_party_invite)),
        looks_up=settings.lookups.enable_3pid_lookup,
    )
