"""Verification of reCAPTCHA responses."""

from urllib.parse import urlencode

import attrs
import orjson

from hs.core.errors import RemoteFault
from hs.lib.http_client import HttpClient, HttpFault

ANSWER_S = 15.0
ANSWER_BYTES = 64 * 1024


@attrs.frozen(eq=False)
class Recaptcha:
    """Google's reCAPTCHA, or another service with the same API."""

    _http: HttpClient
    _verify_url: str
    _private_key: str

    async def verify(self, response: str, client_ip: str) -> bool:
        """Verify a response with the service. Raises: RemoteFault."""
        form = {"secret": self._private_key, "response": response, "remoteip": client_ip}
        try:
            answer = await self._http.send(
                "POST",
                self._verify_url,
                headers={"content-type": "application/x-www-form-urlencoded"},
                body=urlencode(form).encode(),
                timeout_s=ANSWER_S,
                max_bytes=ANSWER_BYTES,
            )
            content = orjson.loads(answer.body)
        except (HttpFault, orjson.JSONDecodeError) as error:
            # Clients must not learn the address of the service.
            raise RemoteFault("for captchas", f"The captcha cannot be verified: {error}") from error
        return answer.status == 200 and isinstance(content, dict) and content.get("success") is True
