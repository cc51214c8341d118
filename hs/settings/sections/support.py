"""Whom users and other administrators can turn to, as `/.well-known/matrix/support` tells them."""

from typing import Any

import attrs

from hs.settings.fields import block, setting
from hs.settings.kinds import STRING, list_of, optional


@attrs.frozen(kw_only=True)
class SupportContact:
    """Somebody who answers."""

    role: str = setting(
        STRING, "m.role.admin", "What for: m.role.admin, m.role.moderator or m.role.security."
    )
    matrix_id: str | None = setting(optional(STRING), None, "Their user ID.")
    email_address: str | None = setting(optional(STRING), None, "Their e-mail address.")


@attrs.frozen(kw_only=True)
class SupportSettings:
    """Contacts and a page; without either, nothing is told."""

    contacts: tuple[SupportContact, ...] = setting(
        list_of(block(SupportContact)), (), "Who answers.", shown=[]
    )
    support_page: str | None = setting(optional(STRING), None, "A page that helps.")

    def content(self) -> dict[str, Any] | None:
        """Give what is told; None: nothing."""
        told: dict[str, Any] = {}
        contacts = [
            {name: value for name, value in attrs.asdict(one).items() if value is not None}
            for one in self.contacts
            if one.matrix_id is not None or one.email_address is not None
        ]
        if contacts:
            told["contacts"] = contacts
        if self.support_page is not None:
            told["support_page"] = self.support_page
        return told or None
