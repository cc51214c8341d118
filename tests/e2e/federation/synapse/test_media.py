"""Media of our server that users of Synapse download, and the other way round."""

import io

import pytest
from PIL import Image

from tests.e2e.federation.synapse.conftest import Sides
from tests.support.servers.matrix_user import MatrixUser, path_of

pytestmark = [pytest.mark.process, pytest.mark.synapse]

MEDIA = "/_matrix/client/v1/media"


async def upload(user: MatrixUser, content: bytes, content_type: str, name: str) -> str:
    """Upload a file; return its media ID."""
    response = await user.request(
        "POST",
        f"/_matrix/media/v3/upload?filename={name}",
        body=content,
        headers={"content-type": content_type},
    )
    assert response.status == 200, response.body
    return str(response.json["content_uri"].rpartition("/")[2])


async def test_file_is_downloaded(sides: Sides) -> None:
    near, far = await sides.sign_up()
    content = bytes(range(256)) * 4000
    async with near, far:
        media_id = await upload(near, content, "application/octet-stream", "data.bin")

        for _ in range(2):
            target = path_of("download", near.server, media_id, base=MEDIA)
            response = await far.request("GET", target)

            assert response.status == 200, response.body
            assert response.body == content
            assert response.headers["content-type"] == "application/octet-stream"
            assert "data.bin" in response.headers["content-disposition"]


async def test_thumbnail_is_downloaded(sides: Sides) -> None:
    near, far = await sides.sign_up()
    picture = io.BytesIO()
    Image.new("RGB", (1000, 800), "red").save(picture, "png")
    async with near, far:
        media_id = await upload(near, picture.getvalue(), "image/png", "red.png")

        target = path_of("thumbnail", near.server, media_id, base=MEDIA)
        response = await far.request("GET", f"{target}?width=320&height=240&method=scale")

        assert response.status == 200, response.body
        with Image.open(io.BytesIO(response.body)) as thumbnail:
            assert thumbnail.width >= 300
            assert thumbnail.width < 1000


async def test_absent_media_are_not_found(sides: Sides) -> None:
    near, far = await sides.sign_up()
    async with near, far:
        target = path_of("download", near.server, "absent", base=MEDIA)
        response = await far.request("GET", target)

        assert response.status == 404
