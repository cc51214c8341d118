"""The administration API at /_synapse/admin."""

from hs.apis.admin.federation import AdminFederationApi
from hs.apis.admin.register import AdminRegisterApi
from hs.apis.admin.whois import WhoisApi
from hs.nursery.part import Part
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.accounts.accounts import AccountServices
from hs.nursery.wiring.accounts.login import LoginServices
from hs.nursery.wiring.federation.client import FederationClientServices
from hs.repl.signing_key import nonce_key_of
from hs.services.accounts.registration.shared_secret_registration import SharedSecretRegistration
from hs.services.federation.outbound.destination_lists import DestinationLists


def wire_admin_api(
    base: ProcessBase,
    accounts: AccountServices,
    login: LoginServices,
    federation: FederationClientServices,
) -> Part:
    """Build the endpoints."""
    secret = base.settings.registration.registration_shared_secret
    nonce_key = nonce_key_of(base.settings)
    shared_secret = SharedSecretRegistration(base.database, base.clock, secret, nonce_key)
    destinations = DestinationLists(base.database, federation.backoff, base.signer.server_name)
    return Part(
        endpoints=[
            AdminRegisterApi(shared_secret, login.registration),
            WhoisApi(accounts.devices),
            AdminFederationApi(destinations),
        ]
    )
