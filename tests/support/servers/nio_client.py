"""matrix-nio, an unmodified client library, made to use another process for every request."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import nio

T = TypeVar("T")
PASSWORD = "correct horse battery staple"


class AnyProcessClient(nio.AsyncClient):  # type: ignore[misc]  # nio ships no types
    """A client that sends each request to the URL that `any_url` returns."""

    def __init__(self, any_url: Callable[[], str], user: str, **config: Any) -> None:
        self._any_url = any_url
        options = {
            "max_limit_exceeded": 5,
            "max_timeouts": 3,
            "encryption_enabled": False,
            **config,
        }
        super().__init__(any_url(), user, config=nio.AsyncClientConfig(**options))

    @property
    def homeserver(self) -> str:
        """The process for the next request."""
        return self._any_url()

    @homeserver.setter
    def homeserver(self, url: str) -> None:
        """The process for the next request."""


def done(response: Any, kind: type[T]) -> T:
    """Return a response after checking its class."""
    assert isinstance(response, kind), response
    return response


async def registered(any_url: Callable[[], str], name: str) -> AnyProcessClient:
    """Register a user and log in a client for it."""
    client = AnyProcessClient(any_url, name)
    done(await client.register(name, PASSWORD), nio.RegisterResponse)
    await client.logout()
    done(await client.login(PASSWORD, device_name=f"{name}'s phone"), nio.LoginResponse)
    return client


def run_scenario(scenario: Callable[[], Awaitable[None]], limit_s: float = 300.0) -> None:
    """Run an asyncio scenario, with a time limit."""

    async def bounded() -> None:
        await asyncio.wait_for(asyncio.ensure_future(scenario()), limit_s)

    asyncio.run(bounded())
