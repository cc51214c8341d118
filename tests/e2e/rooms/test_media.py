"""Media of running servers: every process serves what any process received."""

import io
from itertools import cycle
from typing import Any

import nio
import pytest
import trio
from nio.crypto.attachments import decrypt_attachment
from PIL import Image

from tests.support.servers.http_client import HttpClient
from tests.support.servers.nio_client import done, registered, run_scenario
from tests.support.servers.processes import Cluster

pytestmark = pytest.mark.process
SECRET = b"for your eyes only, " * 20_000


def photo() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (1200, 900), "green").save(out, "JPEG")
    return out.getvalue()


def data_provider(content: bytes) -> Any:
    """Return a data provider for nio, which reads the content anew on every attempt."""
    return lambda *_: io.BytesIO(content)


def test_encrypted_attachment_is_downloaded_and_decrypted(cluster: Cluster) -> None:
    async def scenario() -> None:
        alice = await registered(cluster.any_url, "mediaalice")
        bob = await registered(cluster.any_url, "mediabob")

        uploaded, keys = await alice.upload(
            data_provider(SECRET),
            content_type="application/octet-stream",
            filename="plans.bin",
            filesize=len(SECRET),
            encrypt=True,
        )
        uri = done(uploaded, nio.UploadResponse).content_uri
        downloaded = done(await bob.download(mxc=uri), nio.DownloadResponse)

        assert downloaded.body != SECRET
        decrypted = decrypt_attachment(
            downloaded.body, keys["key"]["k"], keys["hashes"]["sha256"], keys["iv"]
        )
        assert decrypted == SECRET
        for client in (alice, bob):
            await client.close()

    run_scenario(scenario)


def test_every_process_serves_the_same_thumbnail(cluster: Cluster) -> None:
    async def scenario() -> None:
        alice = await registered(cluster.any_url, "thumbalice")

        uploaded, _ = await alice.upload(
            data_provider(photo()), content_type="image/jpeg", filesize=len(photo())
        )
        uri = done(uploaded, nio.UploadResponse).content_uri
        server_name, media_id = uri.removeprefix("mxc://").split("/")
        thumbnails = [
            done(await alice.thumbnail(server_name, media_id, 96, 96), nio.ThumbnailResponse)
            for _ in range(6)
        ]

        assert {thumbnail.body for thumbnail in thumbnails} == {thumbnails[0].body}
        assert Image.open(io.BytesIO(thumbnails[0].body)).size == (320, 240)
        await alice.close()

    run_scenario(scenario)


async def test_waiting_download_gets_upload_through_other_process(
    cluster: Cluster,
) -> None:
    ports = cycle(cluster.ports)
    async with HttpClient(next(ports)) as client:
        body = {"username": "waiting", "password": "a b c", "auth": {"type": "m.login.dummy"}}
        answer = await client.post("/_matrix/client/v3/register", body)
    token = answer.json["access_token"]
    async with HttpClient(next(ports), token=token) as client:
        answer = await client.post("/_matrix/media/v1/create")
    media_path = answer.json["content_uri"].removeprefix("mxc://")
    downloads = []

    async def download(port: int) -> None:
        async with HttpClient(port, token=token) as client:
            path = f"/_matrix/client/v1/media/download/{media_path}?timeout_ms=60000"
            downloads.append(await client.get(path))

    async with trio.open_nursery() as nursery:
        for url in cluster.urls:
            nursery.start_soon(download, int(url.rpartition(":")[2]))
        async with HttpClient(next(ports), token=token) as client:
            uploaded = await client.request(
                "PUT",
                f"/_matrix/media/v3/upload/{media_path}",
                body=SECRET,
                headers={"content-type": "text/plain"},
            )

    assert uploaded.status == 200
    assert [(response.status, response.body) for response in downloads] == [(200, SECRET)] * len(
        cluster.urls
    )
