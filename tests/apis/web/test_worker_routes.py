"""Every path that the documentation of Synapse's workers sends to a worker is answered by one.

Reverse proxies have its rules, so a worker must answer all their prefixes. Each row has the
prefixes of a rule, a path that it matches, and the methods with which the endpoint is called.
"""

import re

import pytest

from hs.apis.web.app import Application
from hs.apis.web.older_prefixes import older_forms
from hs.apis.web.route import collect
from hs.apis.web.router import Router
from hs.storage.database import Database
from tests.support.accounts import WORKER
from tests.support.composition import Neighbourhood, open_process
from tests.support.web import Tokens

ALL = ("api/v1", "r0", "v3", "unstable")
NEWER = ("r0", "v3", "unstable")
ROOM = "rooms/!room:test"
USER = "user/@alice:test"

CLIENT: list[tuple[tuple[str, ...], str, str]] = [
    (("r0", "v3"), "sync", "GET"),
    (("api/v1", "r0", "v3"), "events", "GET"),
    (("api/v1", "r0", "v3"), "initialSync", "GET"),
    (("api/v1", "r0", "v3"), f"{ROOM}/initialSync", "GET"),
    (ALL, "createRoom", "POST"),
    (ALL, "publicRooms", "GET POST"),
    (ALL, f"{ROOM}/joined_members", "GET"),
    (ALL, f"{ROOM}/context/$event", "GET"),
    (ALL, f"{ROOM}/members", "GET"),
    (ALL, f"{ROOM}/state", "GET"),
    (("v1",), f"{ROOM}/hierarchy", "GET"),
    (("unstable/im.nheko.summary",), f"{ROOM}/summary", "GET"),
    (NEWER, "account/3pid", "GET POST"),
    (NEWER, "account/whoami", "GET"),
    (NEWER, "devices", "GET"),
    (("",), "versions", "GET"),
    (ALL, "voip/turnServer", "GET"),
    (ALL, f"{ROOM}/event/$event", "GET"),
    (ALL, "joined_rooms", "GET"),
    (ALL, "search", "POST"),
    (NEWER, "keys/query", "POST"),
    (NEWER, "keys/changes", "GET"),
    (NEWER, "keys/claim", "POST"),
    (NEWER, "room_keys/version", "GET POST"),
    (NEWER, "room_keys/version/1", "GET PUT DELETE"),
    (NEWER, "room_keys/keys", "GET PUT DELETE"),
    (NEWER, "room_keys/keys/!room:test", "GET PUT DELETE"),
    (NEWER, "room_keys/keys/!room:test/session", "GET PUT DELETE"),
    (NEWER, "keys/upload", "POST"),
    (NEWER, "keys/upload/", "POST"),
    (NEWER, "keys/upload/DEVICE", "POST"),
    (ALL, "login", "GET POST"),
    (NEWER, "register", "POST"),
    (("v1",), "register/m.login.registration_token/validity", "GET"),
    (ALL, f"{ROOM}/redact/$event/1", "PUT"),
    (ALL, f"{ROOM}/send/m.room.message/1", "PUT"),
    (ALL, f"{ROOM}/state/m.room.name", "GET PUT"),
    (ALL, f"{ROOM}/state/m.room.name/", "GET PUT"),
    (ALL, f"{ROOM}/state/m.room.member/@alice:test", "GET PUT"),
    *(
        (ALL, f"{ROOM}/{verb}", "POST")
        for verb in ["join", "invite", "leave", "ban", "unban", "kick"]
    ),
    (ALL, "join/!room:test", "POST"),
    (ALL, "profile/@alice:test", "GET"),
    (ALL, "profile/@alice:test/displayname", "GET PUT"),
    (NEWER, f"{USER}/{ROOM}/tags", "GET"),
    (NEWER, f"{USER}/{ROOM}/tags/m.favourite", "PUT DELETE"),
    (NEWER, f"{USER}/account_data/m.direct", "GET PUT"),
    (NEWER, f"{USER}/{ROOM}/account_data/m.read", "GET PUT"),
    (NEWER, f"{ROOM}/receipt/m.read/$event", "POST"),
    (NEWER, f"{ROOM}/read_markers", "POST"),
    (ALL, "presence/@alice:test/status", "GET PUT"),
    (NEWER, "user_directory/search", "POST"),
    (ALL, "pushrules/", "GET"),
    (ALL, "pushrules/global/content/rule", "GET PUT DELETE"),
    (ALL, "pushrules/global/content/rule/actions", "GET PUT"),
    (ALL, f"{ROOM}/messages", "GET"),
    (ALL, f"{ROOM}/typing/@alice:test", "PUT"),
    (NEWER, "sendToDevice/m.room.encrypted/1", "PUT"),
]
OTHERS: list[tuple[str, str]] = [
    ("/_matrix/federation/v1/event/$event", "GET"),
    ("/_matrix/federation/v1/state/!room:test", "GET"),
    ("/_matrix/federation/v1/state_ids/!room:test", "GET"),
    ("/_matrix/federation/v1/backfill/!room:test", "GET"),
    ("/_matrix/federation/v1/get_missing_events/!room:test", "POST"),
    ("/_matrix/federation/v1/publicRooms", "GET POST"),
    ("/_matrix/federation/v1/query/profile", "GET"),
    ("/_matrix/federation/v1/query/directory", "GET"),
    ("/_matrix/federation/v1/make_join/!room:test/@bob:other", "GET"),
    ("/_matrix/federation/v1/make_leave/!room:test/@bob:other", "GET"),
    *(
        (f"/_matrix/federation/{version}/{verb}/!room:test/$event", "PUT")
        for verb in ("send_join", "send_leave", "invite")
        for version in ("v1", "v2")
    ),
    ("/_matrix/federation/v1/event_auth/!room:test/$event", "GET"),
    ("/_matrix/federation/v1/exchange_third_party_invite/!room:test", "PUT"),
    ("/_matrix/federation/v1/user/devices/@alice:test", "GET"),
    ("/_matrix/key/v2/query", "POST"),
    ("/_matrix/key/v2/query/other", "GET"),
    ("/_matrix/federation/v1/hierarchy/!room:test", "GET"),
    ("/_matrix/federation/v1/send/1", "PUT"),
    ("/_matrix/media/v3/upload", "POST"),
    ("/_matrix/media/r0/download/test/id", "GET"),
    ("/_matrix/media/v3/thumbnail/test/id", "GET"),
    ("/_matrix/media/v3/config", "GET"),
]
# Log-in through other services and the administration of media are not implemented; the first
# path is that of an experiment that ended.
NOT_SERVED = [
    "/_matrix/client/unstable/org.matrix.msc2716/rooms/!room:test/batch_send",
    *(f"/_matrix/client/{prefix}/login/sso/redirect" for prefix in ALL),
    *(f"/_matrix/client/{prefix}/login/cas/ticket" for prefix in ALL),
    "/_synapse/client/pick_idp",
    "/_synapse/client/pick_username",
    "/_synapse/client/new_user_consent",
    "/_synapse/client/sso_register",
    "/_synapse/client/oidc/callback",
    "/_synapse/client/saml2/authn_response",
    "/_synapse/admin/v1/purge_media_cache",
    "/_synapse/admin/v1/room/!room:test/media",
    "/_synapse/admin/v1/user/@alice:test/media",
    "/_synapse/admin/v1/media/test/id",
    "/_synapse/admin/v1/quarantine_media/!room:test",
    "/_synapse/admin/v1/users/@alice:test/media",
]


async def worker_router(database: Database) -> Router:
    """Return the router of a generic worker's listener."""
    async with open_process(database, WORKER, neighbours=Neighbourhood()) as process:
        endpoints = [each for part in process.services.parts for each in part.endpoints]
        application = Application(collect(*endpoints), Tokens())
        return application.view_for(["client", "federation"]).router


async def test_worker_answers_every_path_that_proxies_send_to_workers(database: Database) -> None:
    router = await worker_router(database)
    paths = [
        (f"/_matrix/client/{prefix}/{rest}".replace("//", "/"), methods)
        for prefixes, rest, methods in CLIENT
        for prefix in prefixes
    ]

    unknown = [
        f"{method} {path}"
        for path, methods in [*paths, *OTHERS]
        for method in methods.split()
        if router.find(method, path) is None
    ]

    assert not unknown


async def test_other_paths_of_the_lists_are_unrecognized(database: Database) -> None:
    router = await worker_router(database)

    served = [
        path for path in NOT_SERVED for method in ("GET", "POST") if router.find(method, path)
    ]

    assert not served


@pytest.mark.parametrize(
    "path",
    [
        "/_matrix/client/v3/rooms/{room_id}/forget",
        "/_matrix/client/v3/keys/device_signing/upload",
        "/_matrix/client/v3/devices/{device_id}",
        "/_matrix/client/v3/logout",
    ],
)
def test_other_endpoints_have_no_prefix_but_the_two_of_the_specification(path: str) -> None:
    forms = older_forms(path)

    assert forms == [path.replace("/v3/", "/r0/")]


def test_api_v1_is_an_alias_of_the_same_endpoint() -> None:
    forms = older_forms("/_matrix/client/v3/rooms/{room_id}/send/{event_type}/{txn_id}")

    tails = {re.sub("^/_matrix/client/(r0|api/v1|unstable)/", "", form) for form in forms}
    assert len(forms) == 3
    assert tails == {"rooms/{room_id}/send/{event_type}/{txn_id}"}
