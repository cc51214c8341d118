"""The older prefixes of client endpoints, which reverse proxies still send to workers.

Each endpoint is declared at `/_matrix/client/v3/`, and answers at `/_matrix/client/r0/` too. Those
that the rules in the documentation of Synapse's workers name also answered at `unstable`, and most
of them at `api/v1`. Some clients and many proxy configurations still have these prefixes.
"""

import re
from typing import Final

_V3: Final = "/_matrix/client/v3/"
_R0: Final = "/_matrix/client/r0/"
_UNSTABLE: Final = "/_matrix/client/unstable/"
_API_V1: Final = "/_matrix/client/api/v1/"
_MEDIA_V3: Final = "/_matrix/media/v3/"
_MEDIA_R0: Final = "/_matrix/media/r0/"

_ALSO_API_V1: Final = re.compile(r"(?:events|initialSync|rooms/[^/]+/initialSync)$")
_ALSO_UNSTABLE: Final = re.compile(
    r"account/(?:3pid|whoami)$"
    r"|devices$"
    r"|keys/(?:query|changes|claim)$|keys/upload(?:/|$)|room_keys/"
    r"|register$"
    r"|user/.*/(?:tags|account_data)"
    r"|rooms/[^/]+/(?:receipt|read_markers)"
    r"|user_directory/search$"
    r"|sendToDevice/"
)
_ALSO_BOTH: Final = re.compile(
    r"createRoom$|publicRooms$|joined_rooms$|search$|voip/turnServer$"
    r"|rooms/[^/]+/(?:joined_members|members|state|messages|join|invite|leave|ban|unban|kick)$"
    r"|rooms/[^/]+/(?:context|event|state|redact|send|typing)/"
    r"|login$|login/(?:sso/redirect|cas/ticket$)"
    r"|join/|profile/|presence/|pushrules/"
)


def older_forms(path: str) -> list[str]:
    """Return the paths with older prefixes at which an endpoint also answers."""
    if path.startswith(_MEDIA_V3):
        return [_MEDIA_R0 + path.removeprefix(_MEDIA_V3)]
    if not path.startswith(_V3):
        return []
    rest = path.removeprefix(_V3)
    prefixes = [_R0]
    if _ALSO_BOTH.match(rest):
        prefixes += [_API_V1, _UNSTABLE]
    elif _ALSO_UNSTABLE.match(rest):
        prefixes.append(_UNSTABLE)
    elif _ALSO_API_V1.match(rest):
        prefixes.append(_API_V1)
    return [prefix + rest for prefix in prefixes]
