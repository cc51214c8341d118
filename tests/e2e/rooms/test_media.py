"""Media against running servers: an upload to one process is there for all of them."""

import io
from itertools import cycle
from typing import Any

import nio
import pytest
import trio
from nio.crypto.attachments import decrypt_attachment
from PIL import Image

from tests.support.http_client import HttpClient
from tests.support.nio_client import done, registered, run_scenario
from tests.support.processes import Cluster

pytestmark = pytest.mark.process
SECRET = b"for your eyes only, " * 20_000


def photo() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (1200, 900), "green").save(out, "JPEG")
    return out.getvalue()


def provider(content: bytes) -> Any:
    """Give content the way nio takes it: anew for every try."""
    return lambda *_: io.BytesIO(content)


def test_an_encrypted_attachment_goes_from_one_to_the_other(cluster: Cluster) -> None:
    async def scenario() -> None:
        alice = await registered(cluster.any_url, "mediaalice")
        bob = await registered(cluster.any_url, "mediabob")

        uploaded, keys = await alice.upload(
            provider(SECRET),
            content_type="application/octet-stream",
            filename="plans.bin",
            filesize=len(SECRET),
            encrypt=True,
        )
        uri = done(uploaded, nio.UploadResponse).content_uri
        got = done(await bob.download(mxc=uri), nio.DownloadResponse)

        assert got.body != SECRET
        plain = decrypt_attachment(got.body, keys["key"]["k"], keys["hashes"]["sha256"], keys["iv"])
        assert plain == SECRET
        for client in (alice, bob):
            await client.close()

    run_scenario(scenario)


def test_a_picture_has_a_thumbnail_in_every_process(cluster: Cluster) -> None:
    async def scenario() -> None:
        alice = await registered(cluster.any_url, "thumbalice")

        uploaded, _ = await alice.upload(
            provider(photo()), content_type="image/jpeg", filesize=len(photo())
        )
        uri = done(uploaded, nio.UploadResponse).content_uri
        server_name, media_id = uri.removeprefix("mxc://").split("/")
        seen = [
            done(await alice.thumbnail(server_name, media_id, 96, 96), nio.ThumbnailResponse)
            for _ in range(6)
        ]

        assert {one.body for one in seen} == {seen[0].body}
        assert Image.open(io.BytesIO(seen[0].body)).size == (320, 240)
        await alice.close()

    run_scenario(scenario)


async def test_who_waits_at_one_process_gets_what_is_uploaded_to_another(
    cluster: Cluster,
) -> None:
    ports = cycle([int(url.rpartition(":")[2]) for url in cluster.urls])
    async with HttpClient(next(ports)) as client:
        body = {"username": "waiting", "password": "a b c", "auth": {"type": "m.login.dummy"}}
        answer = await client.post("/_matrix/client/v3/register", body)
    token = answer.json["access_token"]
    async with HttpClient(next(ports), token=token) as client:
        answer = await client.post("/_matrix/media/v1/create")
    address = answer.json["content_uri"].removeprefix("mxc://")
    got = []

    async def wait(port: int) -> None:
        async with HttpClient(port, token=token) as client:
            path = f"/_matrix/client/v1/media/download/{address}?timeout_ms=60000"
            got.append(await client.get(path))

    async with trio.open_nursery() as nursery:
        for url in cluster.urls:
            nursery.start_soon(wait, int(url.rpartition(":")[2]))
        async with HttpClient(next(ports), token=token) as client:
            filled = await client.ask(
                "PUT",
                f"/_matrix/media/v3/upload/{address}",
                body=SECRET,
                headers={"content-type": "text/plain"},
            )

    assert filled.status == 200
    assert [(one.status, one.body) for one in got] == [(200, SECRET)] * len(cluster.urls)
