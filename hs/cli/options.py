"""Options that several commands share, and loading the settings they name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from hs.settings.generate import CONFIG_NAME
from hs.settings.load import load_settings
from hs.settings.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_DATA = Path("data")


def config_option(command: F) -> F:
    """Add --config: once, or more often with later files over earlier ones."""
    return click.option(
        "-c",
        "--config",
        "--config-path",
        "configs",
        multiple=True,
        type=click.Path(path_type=Path),
        envvar="HS_CONFIG",
        help="A configuration file, or a directory of *.yaml files. Repeat it for a worker: the "
        "shared file first, then the worker's. [default: data/homeserver.yaml]",
    )(command)


def settings_of(configs: tuple[Path, ...], *, strict: bool = False) -> Settings:
    """Load the settings of a command. Raises: SettingsError."""
    return load_settings(configs or (DEFAULT_DATA / CONFIG_NAME,), strict=strict)
