"""The endpoints of a process: every class that declares some, given its services."""

from hs.apis.client.create_room import CreateRoomApi
from hs.apis.client.login import LoginApi
from hs.apis.client.logout import LogoutApi
from hs.apis.client.membership import MembershipApi
from hs.apis.client.register import RegisterApi
from hs.apis.client.send import SendApi
from hs.nursery.wiring.accounts import Accounts
from hs.nursery.wiring.rooms import RoomActions


def account_apis(accounts: Accounts) -> list[object]:
    """Give the endpoints of accounts."""
    return [
        RegisterApi(
            accounts.registration,
            accounts.interactive,
            accounts.registration_tokens,
            accounts.appservices,
            accounts.rates,
        ),
        LoginApi(accounts.login, accounts.sessions, accounts.lifecycle, accounts.interactive),
        LogoutApi(accounts.sessions),
    ]


def action_apis(actions: RoomActions) -> list[object]:
    """Give the endpoints that change rooms."""
    return [
        CreateRoomApi(actions.creation),
        MembershipApi(actions.membership, actions.naming),
        SendApi(actions.sending),
    ]
