"""Texts of e-mails and pages: templates that come with the server, or an administrator's own."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import jinja2
from jinja2.sandbox import SandboxedEnvironment

import hs

SHIPPED: Final = Path(hs.__file__).parent / "templates"


@attrs.frozen(eq=False)
class Templates:
    """Templates by name, the first folder that has one giving it.

    Values are escaped in `….html`. A template runs in a sandbox; a value it names that is not
    there is empty.
    """

    _folders: Sequence[Path] = ()
    _filters: Mapping[str, Callable[..., Any]] = attrs.field(factory=dict)
    _environment: SandboxedEnvironment = attrs.field(init=False)

    @_environment.default
    def _make(self) -> SandboxedEnvironment:
        environment = SandboxedEnvironment(
            loader=jinja2.FileSystemLoader([*self._folders, SHIPPED]),
            autoescape=jinja2.select_autoescape(["html", "xml"]),
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters.update(self._filters)
        return environment

    def render(self, name: str, **values: object) -> str:
        """Fill a template. Raises: jinja2.TemplateError, if it is missing or wrong."""
        return self._environment.get_template(name).render(**values)

    def has(self, name: str) -> bool:
        """Tell whether there is a template of that name."""
        return name in self._environment.list_templates()
