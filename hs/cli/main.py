"""The `hs` command: finds the sub-command, and tells mistakes without a stack trace."""

import importlib
import sys

import click

from hs.cli.notices import tell_notices
from hs.settings.errors import SettingsError

# What each command is for, and its module, which is loaded only when the command runs.
_COMMANDS = {
    "serve": ("hs.cli.serve", "Run the server, or one worker of it."),
    "generate-config": ("hs.cli.generate", "Write the smallest configuration that works."),
    "check-config": ("hs.cli.inspect_config", "Tell every mistake in a configuration."),
    "plan": ("hs.cli.inspect_plan", "Show what a process would do."),
    "routes": ("hs.cli.inspect_plan", "List the paths that are answered."),
    "register-user": ("hs.cli.register", "Create an account on a running server."),
    "hash-password": ("hs.cli.passwords", "Hash a password as the database keeps it."),
    "migrate": ("hs.cli.migrate", "Bring the database's schema up to date."),
    "reference": ("hs.cli.inspect_config", "Write the reference of all settings."),
    "version": ("hs.cli.inspect_config", "Tell the version."),
}
EXIT_FAILED = 1
EXIT_BAD_CONFIG = 2


class Commands(click.Group):
    """Loads only the module of the command that runs, so that each starts fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order in which one meets them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command."""
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(_COMMANDS[cmd_name][0])
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, purpose) for name, (_, purpose) in _COMMANDS.items()])


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 96},
    epilog="A server in two steps: `hs serve` writes a configuration into ./data on first use and "
    "runs it; then `hs register-user --admin` creates the first account. Each command explains "
    "itself with --help.",
)
def cli() -> None:
    """hs, a Matrix homeserver: one process, or many workers."""


def run() -> None:
    """Run the command line; the exit code tells whether it went well."""
    try:
        cli.main(prog_name="hs")
    except SettingsError as error:
        tell_notices(error.notices)
        click.secho("The configuration cannot be used:", fg="red", err=True)
        for problem in error.problems:
            click.echo(f"  {problem}", err=True)
        sys.exit(EXIT_BAD_CONFIG)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        click.echo(f"Error: {place}{error.strerror or error}", err=True)
        sys.exit(EXIT_FAILED)
