"""Templates of e-mails and pages: those shipped with the server, or the administrator's own."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import jinja2
from jinja2.sandbox import SandboxedEnvironment

import hs

SHIPPED_TEMPLATES: Final = Path(hs.__file__).parent / "templates"


@attrs.frozen(eq=False)
class Templates:
    """Templates by name, taken from the first folder that has one, else from those shipped.

    Values are escaped in `.html` templates. Templates run in Jinja's sandbox, and a value that a
    template names but was not given is empty.
    """

    _folders: Sequence[Path] = ()
    _filters: Mapping[str, Callable[..., Any]] = attrs.field(factory=dict)
    _environment: SandboxedEnvironment = attrs.field(init=False)

    @_environment.default
    def _make(self) -> SandboxedEnvironment:
        environment = SandboxedEnvironment(
            loader=jinja2.FileSystemLoader([*self._folders, SHIPPED_TEMPLATES]),
            autoescape=jinja2.select_autoescape(["html", "xml"]),
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters.update(self._filters)
        return environment

    def render(self, name: str, **values: object) -> str:
        """Render a template.

        Raises: jinja2.TemplateError, if it is missing or invalid.
        """
        return self._environment.get_template(name).render(**values)

    def has(self, name: str) -> bool:
        """Return whether a template exists."""
        return name in self._environment.list_templates()
