"""The configured limits on avatars."""

import pytest

from hs.core.errors import Forbidden
from hs.core.ids import ServerName
from hs.services.accounts.profiles.avatar_rules import AvatarRules
from hs.storage.database import Database, Tx

HERE = ServerName("test")
ADD = """
INSERT INTO media (origin, media_id, user_id, content_type, location, size_bytes, created_ms,
    used_ms, needs_token)
VALUES ('test', $1, '@alice:test', $2, $3, $4, 0, 0, 0)
"""


async def add(tx: Tx, media_id: str, content_type: str, size: int) -> None:
    await tx.execute(ADD, media_id, content_type, media_id, size)


async def is_allowed(rules: AvatarRules, url: str) -> bool:
    try:
        await rules.check_content({"avatar_url": url})
    except Forbidden:
        return False
    return True


@pytest.mark.parametrize(
    ("max_bytes", "types", "allowed"),
    [
        (None, None, {"small", "large", "movie", "elsewhere", "nonsense"}),
        (1000, None, {"small", "movie"}),
        (None, ("image/png",), {"small", "large"}),
        (1000, ("image/png",), {"small"}),
    ],
)
async def test_avatars_over_the_configured_limits_are_rejected(
    database: Database, max_bytes: int | None, types: tuple[str, ...] | None, allowed: set[str]
) -> None:
    rules = AvatarRules(database, HERE, max_bytes, types)
    await database.write(add, "small", "image/png", 1000)
    await database.write(add, "large", "image/PNG; x=y", 1001)
    await database.write(add, "movie", "video/mp4", 10)
    urls = {
        "small": "mxc://test/small",
        "large": "mxc://test/large",
        "movie": "mxc://test/movie",
        "elsewhere": "mxc://else.test/small",
        "nonsense": "https://test/small",
    }

    accepted = {name for name, url in urls.items() if await is_allowed(rules, url)}

    assert accepted == allowed
    await rules.check_content({"displayname": "no avatar at all"})
