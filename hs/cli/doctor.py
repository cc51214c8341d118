"""`hs doctor`: checks a running server as a whole, step by step."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import trio

from hs.cli.options import STEP_MARKS, config_option
from hs.cli.server_processes import load_server_settings, running_server_option
from hs.nursery.doctor.steps import examine
from hs.nursery.preflight import check_start
from hs.repl.signing_key import signing_key_of
from hs.services.federation_client.peer_check import CheckStep
from hs.settings.errors import SettingsError
from hs.settings.settings import Settings

_RESULTS = {True: "ok", False: "failed", None: "unknown"}


@click.command(
    epilog="Exit status: 0 if no step failed, 1 if one did, 2 if the configuration is wrong."
)
@config_option
@running_server_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(configs: tuple[Path, ...], data_dir: Path | None, as_json: bool) -> None:
    """Check a running server as a whole.

    The steps: configuration, signing key, database with invariants of its content, Redis with a
    message that all processes answer, every process in `instance_map` with the secret, whether
    versions, settings, keys and clocks agree, and, with `public_baseurl`, the reverse proxy and the
    well-known file. Each has a time limit. Nothing is changed. Run it on a host of the server, with
    the shared file. For other servers see `hs federation-check`.

    \b
        hs doctor -c homeserver.yaml
        hs doctor -c homeserver.yaml --json
    """
    settings = load_server_settings(configs, data_dir)
    steps: list[CheckStep] = []

    def report(step: CheckStep) -> None:
        steps.append(step)
        if not as_json:
            mark, color = STEP_MARKS[step.is_good]
            click.echo(f"  {click.style(f'{mark:6}', fg=color)} {step.subject}: {step.finding}")

    if not as_json:
        click.echo(f"Examining {settings.server.server_name}:")
    for step in _steps_of_files(settings):
        report(step)
    trio.run(examine, settings, report)
    if as_json:
        click.echo(_as_json(steps))
    if any(step.is_good is False for step in steps):
        raise click.exceptions.Exit(1)


def _steps_of_files(settings: Settings) -> Iterator[CheckStep]:
    """Yield what the files alone show. Raises: SettingsError, without a signing key."""
    key = signing_key_of(settings)
    yield CheckStep("signing key", f"{key.key_id} can be read")
    problems, _ = check_start(settings)
    for problem in settings.locate(SettingsError(problems)).problems:
        text = f"{problem.origin}: {problem.key}: {problem.message}; {problem.remedy}"
        yield CheckStep("configuration", text, False)
    if not problems:
        files = ", ".join(str(file) for file in settings.files)
        yield CheckStep("configuration", f"{files}: usable, {len(settings.notices)} warnings")


def _as_json(steps: Sequence[CheckStep]) -> str:
    shown = [
        {"subject": step.subject, "finding": step.finding, "result": _RESULTS[step.is_good]}
        for step in steps
    ]
    is_good = all(step.is_good is not False for step in steps)
    return json.dumps({"ok": is_good, "steps": shown}, indent=2)
