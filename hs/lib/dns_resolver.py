"""Look-ups of SRV records with dnspython; the only importer of that library."""

import dns.asyncresolver
import dns.exception
import dns.resolver
import trio

from hs.lib.srv_records import SrvAnswer, SrvRecord, SrvUnavailable

LIFETIME_S = 5.0
ABSENCE_TTL_S = 300.0
MAX_RECORDS = 20


class DnsSrvLookup:
    """Asks the name servers of the system, those in /etc/resolv.conf."""

    async def look_up(self, name: str) -> SrvAnswer:
        """Return the records of a name. Raises: SrvUnavailable."""
        try:
            with trio.fail_after(LIFETIME_S + 1):
                # Made for each look-up, because the file may have changed; it is a few lines.
                resolver = dns.asyncresolver.Resolver()
                answer = await resolver.resolve(
                    f"{name}.", "SRV", lifetime=LIFETIME_S, search=False
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
