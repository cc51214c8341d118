"""`hs plan` and `hs routes`: what a process would do, and what it answers."""

import importlib
import json
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import attrs
import click

from hs import apis
from hs.apis.web.route import Endpoint, collect
from hs.cli.notices import tell_notices
from hs.cli.options import config_option, settings_of
from hs.nursery.plan import plan_of, tree_of


@click.command()
@config_option
def plan(configs: tuple[Path, ...]) -> None:
    """Show what a process would do, and start nothing.

    It prints the nest of nurseries, outermost first: database, replication, duties, listeners.

        hs plan -c homeserver.yaml -c workers/sync1.yaml
    """
    settings = settings_of(configs)
    tell_notices(settings.notices)
    click.echo(tree_of(plan_of(settings), settings))


@click.command()
@click.option("--resource", help="Only what listeners with this resource serve.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON, for other programs.")
def routes(resource: str | None, as_json: bool) -> None:
    """List every method and path that is answered, and the listener resources that serve it.

    Every process answers all of them, as far as its listeners offer the resource.
    """
    rows = sorted(
        (path, endpoint.method, sorted(endpoint.resources))
        for endpoint in declared_endpoints()
        for path in endpoint.paths
        if resource is None or resource in endpoint.resources
    )
    if resource is not None and not rows:
        known = sorted({name for one in declared_endpoints() for name in one.resources})
        raise click.UsageError(f"No such resource, {resource}; there are {', '.join(known)}.")
    if as_json:
        keys = ("path", "method", "resources")
        click.echo(json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=1))
        return
    for path, method, resources in rows:
        click.echo(f"{method:<7} {path}  [{', '.join(resources)}]")


def declared_endpoints() -> list[Endpoint]:
    """Find the endpoints of all classes under hs.apis; their handlers cannot be called."""
    return [
        endpoint
        for module in _modules()
        for declared in vars(module).values()
        if attrs.has(declared) and declared.__module__ == module.__name__
        # Declarations are read from the class; what a constructor would be given is not needed.
        for endpoint in collect(object.__new__(declared))
    ]


def _modules() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(apis.__path__, f"{apis.__name__}."):
        yield importlib.import_module(found.name)
