"""`hs plan` and `hs routes`: show what a process would run and which endpoints there are."""

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
from hs.cli.notices import print_notices
from hs.cli.options import config_option, load_command_settings
from hs.nursery.plan import plan_of, tree_of


@click.command(epilog="Exit status: 0 on success, 2 if the configuration is wrong.")
@config_option
def plan(configs: tuple[Path, ...]) -> None:
    """Show what a process would run: database, replication, duties and listeners.

    Prints the tree of nurseries, outermost first. Nothing is started.

    \b
        hs plan -c homeserver.yaml
        hs plan -c homeserver.yaml -c workers/sync1.yaml
    """
    settings = load_command_settings(configs)
    print_notices(settings.notices)
    click.echo(tree_of(plan_of(settings), settings))


@click.command(epilog="Exit status: 0 on success, 2 if there is no such resource.")
@click.option("--resource", help="List only endpoints of this listener resource.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def routes(resource: str | None, as_json: bool) -> None:
    """List the HTTP endpoints: method, path, and the listener resources that serve them.

    Every process can serve all of them; its listeners decide by their resources which it does.
    Some answer only if the configuration enables what they are for.

    \b
        hs routes
        hs routes --resource client
    """
    rows = sorted(
        (path, endpoint.method, sorted(endpoint.resources))
        for endpoint in declared_endpoints()
        for path in endpoint.paths
        if resource is None or resource in endpoint.resources
    )
    if resource is not None and not rows:
        known_resources = sorted(
            {name for endpoint in declared_endpoints() for name in endpoint.resources}
        )
        raise click.UsageError(
            f"There is no resource {resource!r}; the resources are {', '.join(known_resources)}."
        )
    if as_json:
        keys = ("path", "method", "resources")
        click.echo(json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=1))
        return
    for path, method, resources in rows:
        click.echo(f"{method:<7} {path}  [{', '.join(resources)}]")


def declared_endpoints() -> list[Endpoint]:
    """Return the endpoints declared by all classes in hs.apis; their handlers cannot be called."""
    return [
        endpoint
        for module in _modules()
        for declared in vars(module).values()
        if isinstance(declared, type) and attrs.has(declared)
        if declared.__module__ == module.__name__
        # Endpoints are declared on the class, so no constructor arguments are needed.
        for endpoint in collect(object.__new__(declared))
    ]


def _modules() -> Iterator[ModuleType]:
    for module in pkgutil.walk_packages(apis.__path__, f"{apis.__name__}."):
        yield importlib.import_module(module.name)
