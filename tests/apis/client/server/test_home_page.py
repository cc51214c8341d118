"""The page at the address of the server."""

import pytest

from tests.support.accounts import Accounts


async def test_home_page_names_the_server_and_clients(accounts: Accounts) -> None:
    response = await accounts.client.get("/")

    assert response.status == 200
    assert response.headers["content-type"].startswith("text/html")
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    page = response.body.decode()
    assert "It works" in page
    assert f"<strong>{accounts.process.base.settings.server.server_name}</strong>" in page
    assert "https://matrix.org/ecosystem/clients/" in page


@pytest.mark.parametrize("path", ["/index.html", "/_matrix/", "/_matrix"])
async def test_other_paths_are_still_unrecognized(accounts: Accounts, path: str) -> None:
    response = await accounts.client.get(path)

    assert (response.status, response.errcode) == (404, "M_UNRECOGNIZED")
