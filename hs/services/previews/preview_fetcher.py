"""Fetches what a preview is made of: redirects by hand, each of them checked."""

from collections.abc import Mapping, Sequence

import attrs
import trio

from hs.core.errors import Forbidden, InvalidParam, NotFound
from hs.lib.http_client import Blocked, HttpAnswer, HttpClient, HttpFault
from hs.lib.http_client.targets import escaped, parse_location, parse_target
from hs.services.previews.url_rules import is_refused
from hs.settings.sections.previews import UrlRule

MAX_REDIRECTS = 8
_REDIRECTS = frozenset((301, 302, 303, 307, 308))


class NotFetched(NotFound):
    """The page cannot be had; what exactly is wrong there is not the client's to know.

    No gateway error: nothing is wrong with this server, and proxies before it may replace the
    answers that say so with pages of their own, which web clients cannot read.
    """

    def __init__(self, cause: str) -> None:
        super().__init__("The page cannot be fetched")
        self.cause = cause


@attrs.frozen(eq=False)
class Fetcher:
    """Fetches pages and images for previews."""

    _http: HttpClient
    _rules: Sequence[UrlRule]
    _languages: Sequence[str]

    def usual_form(self, url: str) -> str:
        """Write a link as it is asked for.

        Raises: InvalidParam (nothing that could be fetched), Forbidden (not to be fetched).
        """
        url = url.strip()
        try:
            target = parse_target(escaped(url))
        except Blocked as fault:
            raise InvalidParam(f"This link cannot be fetched: {fault.message}") from None
        if is_refused(self._rules, url) or is_refused(self._rules, target.url):
            raise Forbidden("Links like this one are not fetched")
        return target.url

    async def fetch(self, url: str, accept: str, *, timeout_s: float, max_bytes: int) -> HttpAnswer:
        """Fetch what a link leads to, with status 200. Raises: NotFetched, as `usual_form`."""
        headers = {"accept": accept, "accept-language": ", ".join(self._languages)}
        deadline = trio.current_time() + timeout_s
        try:
            target = parse_target(self.usual_form(url))
            for _ in range(MAX_REDIRECTS + 1):
                answer = await self._ask(target.url, headers, deadline, max_bytes)
                location = answer.headers.get("location")
                if answer.status not in _REDIRECTS or location is None:
                    return _good(answer)
                target = parse_location(target, location)
                self.usual_form(target.url)
        except HttpFault as fault:
            raise NotFetched(fault.message) from fault
        raise NotFetched("too many redirects")

    async def _ask(
        self, url: str, headers: Mapping[str, str], deadline: float, max_bytes: int
    ) -> HttpAnswer:
        left_s = max(deadline - trio.current_time(), 0.001)
        return await self._http.send(
            "GET", url, headers=headers, timeout_s=left_s, max_bytes=max_bytes
        )


def content_type_of(answer: HttpAnswer) -> tuple[str, str | None]:
    """Give the type of the content in lower case, and its character set if that is told."""
    kind, *parameters = answer.headers.get("content-type", "").split(";")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return kind.strip().lower(), value.strip(" \"'") or None
    return kind.strip().lower(), None


def _good(answer: HttpAnswer) -> HttpAnswer:
    if answer.status != 200:
        raise NotFetched(f"status {answer.status}")
    return answer
