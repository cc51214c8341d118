"""Clients of the servers that validate third-party identifiers, and of the captcha service."""

import attrs

from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.http_clients import HttpClients
from hs.services.accounts.terms.captcha import Recaptcha
from hs.services.accounts.threepids.identity_servers import IdentityServers
from hs.services.accounts.threepids.msisdn_delegate import MsisdnDelegate


@attrs.frozen(eq=False, kw_only=True)
class ThreepidServers:
    """The servers that accounts and invites ask; `captcha` is None if it is not configured."""

    identity_servers: IdentityServers
    phones: MsisdnDelegate
    captcha: Recaptcha | None


def wire_threepid_servers(base: ProcessBase, http: HttpClients) -> ThreepidServers:
    """Build the clients of these servers."""
    settings = base.settings
    captcha, key = settings.captcha, settings.captcha.recaptcha_private_key
    return ThreepidServers(
        identity_servers=IdentityServers(base.database, http.direct, base.signer),
        phones=MsisdnDelegate(settings.delegates.msisdn, http.trusted),
        captcha=None
        if key is None
        else Recaptcha(http.public, captcha.recaptcha_siteverify_api, key),
    )
