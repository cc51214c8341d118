"""Templates of e-mails and pages: those shipped with the server, or the administrator's own."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import jinja2
import jinja2.meta
from jinja2.sandbox import SandboxedEnvironment

import hs

SHIPPED_TEMPLATES: Final = Path(hs.__file__).parent / "templates"
SHIPPED_NAMES: Final = tuple(sorted(path.name for path in SHIPPED_TEMPLATES.iterdir()))


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

    def mistakes(self, names: Iterable[str] | None = None) -> Iterator[tuple[Path, str]]:
        """Yield the paths of templates that could not be used, and why.

        `names` defaults to the names of the shipped templates. Those themselves are not checked.
        """
        for name in SHIPPED_NAMES if names is None else names:
            path = next(
                (path for folder in self._folders if (path := folder / name).exists()), None
            )
            if path is None:
                continue
            try:
                self._check(name)
            except jinja2.TemplateSyntaxError as error:
                yield path, f"line {error.lineno}: {error.message}"
            except jinja2.TemplateNotFound as error:
                yield path, f"there is no template {error.name!r}"
            except OSError as error:
                yield path, error.strerror or str(error)
            except UnicodeDecodeError:
                yield path, "not encoded as UTF-8"

    def _check(self, name: str) -> None:
        environment, loader = self._environment, self._environment.loader
        assert loader is not None
        source, path, _ = loader.get_source(environment, name)
        environment.compile(source, name, path)
        for reference in jinja2.meta.find_referenced_templates(environment.parse(source)):
            if reference is not None:
                loader.get_source(environment, reference)
