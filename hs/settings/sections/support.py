"""Settings of the support contacts served at `/.well-known/matrix/support`."""

from typing import Any

import attrs

from hs.settings.fields import block, setting
from hs.settings.kinds import STRING, list_of, optional


@attrs.frozen(kw_only=True)
class SupportContact:
    """A contact."""

    role: str = setting(
        STRING, "m.role.admin", "Role: `m.role.admin`, `m.role.moderator` or `m.role.security`."
    )
    matrix_id: str | None = setting(optional(STRING), None, "User ID of the contact.")
    email_address: str | None = setting(optional(STRING), None, "E-mail address of the contact.")


@attrs.frozen(kw_only=True)
class SupportSettings:
    """Contacts and a support page; without either, the endpoint is not served."""

    contacts: tuple[SupportContact, ...] = setting(
        list_of(block(SupportContact)),
        (),
        "Contacts, each with `matrix_id`, `email_address` or both, and a `role`.",
        shown=[],
    )
    support_page: str | None = setting(optional(STRING), None, "URL of a support page.")

    def content(self) -> dict[str, Any] | None:
        """Return the response body; None if nothing is configured."""
        response: dict[str, Any] = {}
        contacts = [
            {name: value for name, value in attrs.asdict(contact).items() if value is not None}
            for contact in self.contacts
            if contact.matrix_id is not None or contact.email_address is not None
        ]
        if contacts:
            response["contacts"] = contacts
        if self.support_page is not None:
            response["support_page"] = self.support_page
        return response or None
