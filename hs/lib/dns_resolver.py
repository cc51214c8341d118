"""Look-ups of SRV records with dnspython; the only importer of that library."""

import attrs
import dns.asyncresolver
import dns.exception
import dns.resolver
import trio

from hs.lib.srv_records import SrvAnswer, SrvRecord, SrvUnavailable

LIFETIME_S = 5.0
ABSENCE_TTL_S = 300.0
MAX_RECORDS = 20


@attrs.frozen
class DnsSrvLookup:
    """Asks a name server, by default those of the system (/etc/resolv.conf)."""

    _server: str | None = None
    _port: int = 53
    _lifetime_s: float = attrs.field(default=LIFETIME_S, kw_only=True)

    async def look_up(self, name: str) -> SrvAnswer:
        """Return the records of a name. Raises: SrvUnavailable."""
        try:
            with trio.fail_after(self._lifetime_s + 1):
                # Made for each look-up, because the file may have changed; it is a few lines.
                resolver = dns.asyncresolver.Resolver(configure=self._server is None)
                if self._server is not None:
                    resolver.nameservers, resolver.port = [self._server], self._port
                answer = await resolver.resolve(
                    f"{name}.", "SRV", lifetime=self._lifetime_s, search=False
                )
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return SrvAnswer((), ABSENCE_TTL_S)
        except (dns.exception.DNSException, OSError, trio.TooSlowError) as error:
            raise SrvUnavailable(f"{name}: {str(error) or type(error).__name__:.200}") from None
        records = tuple(
            SrvRecord(row.priority, row.weight, row.port, row.target.to_text().rstrip("."))
            for row in list(answer)[:MAX_RECORDS]
        )
        return SrvAnswer(records, float(answer.rrset.ttl if answer.rrset else ABSENCE_TTL_S))
