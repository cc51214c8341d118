"""The commands that need no running server."""

import json
import sqlite3
import stat
from pathlib import Path

import bcrypt
import pytest
from click.testing import CliRunner, Result

from hs import __version__
from hs.cli.main import cli, run
from hs.cli.serve import command_name
from hs.core.signing.keys import parse_signing_keys
from hs.settings.errors import EXIT_BAD_CONFIG
from hs.settings.load import load_settings


def invoke(*arguments: str, text: str = "") -> Result:
    return CliRunner().invoke(cli, list(arguments), input=text)


def generate(folder: Path) -> Path:
    result = invoke("generate-config", "-H", "example.org", "--data-dir", str(folder))
    assert result.exit_code == 0, result.output
    return folder / "homeserver.yaml"


def test_help_names_every_command() -> None:
    result = invoke("--help")

    assert result.exit_code == 0
    for name in ("serve", "generate-config", "register-user", "plan", "routes", "migrate"):
        assert name in result.output


def test_unknown_command_is_a_usage_error() -> None:
    result = invoke("dance")

    assert result.exit_code == 2
    assert "No such command" in result.output


def test_generated_configuration_loads_without_notices(tmp_path: Path) -> None:
    path = generate(tmp_path / "new")

    settings = load_settings([path], {})

    assert settings.notices == ()
    assert settings.server.server_name == "example.org"
    assert settings.database.path == tmp_path / "new" / "homeserver.db"
    assert settings.listeners[0].is_private()
    assert settings.registration.registration_shared_secret
    assert settings.logging.config
    assert settings.signing_keys.signing_key_path
    assert len(parse_signing_keys(settings.signing_keys.signing_key_path.read_text())) == 1


def test_generated_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    generate(tmp_path)

    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_generated_directory_is_accessible_to_its_owner_only(tmp_path: Path) -> None:
    generate(tmp_path / "new")

    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def test_generate_config_does_not_change_existing_files(tmp_path: Path) -> None:
    generate(tmp_path)
    before = {path: path.read_text() for path in tmp_path.iterdir()}

    result = invoke("generate-config", "-H", "other.org", "--data-dir", str(tmp_path))

    assert "was not changed" in result.output
    assert all(path.read_text() == text for path, text in before.items())


def test_invalid_server_name_is_reported_without_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["hs", "generate-config", "-H", "https://example.org"])

    with pytest.raises(SystemExit) as exit_info:
        run()

    assert exit_info.value.code == EXIT_BAD_CONFIG
    stderr = capsys.readouterr().err
    assert "is not a server name" in stderr
    assert "Traceback" not in stderr


def test_check_config_summarizes_a_usable_configuration(tmp_path: Path) -> None:
    result = invoke("check-config", "-c", str(generate(tmp_path)))

    assert result.exit_code == 0
    assert "example.org is usable: the main process, sqlite, listening on port 8008" in (
        result.output
    )


def test_check_config_prints_warnings(tmp_path: Path) -> None:
    path = generate(tmp_path)
    path.write_text(path.read_text() + "\nenable-registration: true\n")

    result = invoke("check-config", "-c", str(path))

    assert "did you mean enable_registration?" in result.output


def test_mistake_in_configuration_exits_with_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "homeserver.yaml"
    path.write_text("server_name: a.org\nbcrypt_rounds: many\n")
    monkeypatch.setattr("sys.argv", ["hs", "check-config", "-c", str(path)])

    with pytest.raises(SystemExit) as exit_info:
        run()

    assert exit_info.value.code == EXIT_BAD_CONFIG
    assert f"{path}:2: bcrypt_rounds: expected an integer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check-config", "-c", "{folder}/typo.yaml"], "did you mean server_name?"),
        (["check-config", "-c", "{folder}/list.yaml"], "list.yaml: file contains no keys"),
        (["check-config", "-c", "{folder}/none"], "none: directory contains no *.yaml files"),
        (["check-config", "-c", "{folder}/bytes.yaml"], "bytes.yaml:2: not valid YAML"),
        (["check-config", "-c", "{folder}/nested.yaml"], "nested.yaml: YAML is nested too deeply"),
        (["check-config", "-c", "{folder}/logs.yaml"], "log_config: cannot read the file"),
        (["reference", "{folder}/none"], "none/configuration.md: "),
    ],
)
def test_mistakes_are_reported_without_traceback(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    (tmp_path / "typo.yaml").write_text("server-name: a.org\n")
    (tmp_path / "list.yaml").write_text("- a\n")
    (tmp_path / "bytes.yaml").write_text("server_name: a.org\n\0")
    (tmp_path / "nested.yaml").write_text("a: " + "[" * 5000)
    (tmp_path / "logs.yaml").write_text("server_name: a.org\nlog_config: .\n")
    (tmp_path / "none" / "configuration.md").mkdir(parents=True)
    formatted = [argument.format(folder=tmp_path) for argument in arguments]
    monkeypatch.setattr("sys.argv", ["hs", *formatted])

    with pytest.raises(SystemExit) as exit_info:
        run()

    assert exit_info.value.code in (1, EXIT_BAD_CONFIG)
    assert message in capsys.readouterr().err


def test_routes_of_unknown_resource_is_a_usage_error() -> None:
    result = invoke("routes", "--resource", "cleint")

    assert result.exit_code == 2
    assert "the resources are " in result.output
    assert "client" in result.output


def test_hash_password_uses_the_pepper_of_the_configuration(tmp_path: Path) -> None:
    path = generate(tmp_path)
    path.write_text(path.read_text() + "\npassword_config: {pepper: salty}\nbcrypt_rounds: 4\n")

    result = invoke("hash-password", "-p", "secret", "-c", str(path))

    assert result.output.startswith("$2b$04$")
    assert bcrypt.checkpw(b"secretsalty", result.output.strip().encode())


def test_hash_password_prompts_for_the_password() -> None:
    result = invoke("hash-password", "--rounds", "4", text="pw\npw\n")

    assert bcrypt.checkpw(b"pw", result.output.splitlines()[-1].encode())


def test_version_is_printed() -> None:
    assert __version__ in invoke("version").output


def test_plan_of_single_process_names_database_and_listener(tmp_path: Path) -> None:
    result = invoke("plan", "-c", str(generate(tmp_path)))

    assert result.exit_code == 0, result.output
    assert "sqlite" in result.output
    assert "127.0.0.1:8008" in result.output


def test_routes_are_listed_as_text_and_as_json() -> None:
    listed = invoke("routes")
    as_json = json.loads(invoke("routes", "--json").output)

    assert listed.exit_code == 0, listed.output
    assert "GET     /health" in listed.output
    assert {"path": "/health", "method": "GET", "resources": ["health"]} in as_json


def test_new_database_is_migrated_once(tmp_path: Path) -> None:
    path = str(generate(tmp_path))

    pending = invoke("migrate", "-c", path, "--dry-run")
    applied = invoke("migrate", "-c", path)
    again = invoke("migrate", "-c", path)

    assert "pending: 0001" in pending.output
    assert "applied: 0001" in applied.output
    assert "The schema is up to date." in again.output


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_database_of_synapse_is_not_migrated(tmp_path: Path, options: tuple[str, ...]) -> None:
    path = generate(tmp_path)
    with sqlite3.connect(path.parent / "homeserver.db") as synapse:
        synapse.execute("CREATE TABLE schema_version (version INTEGER)")
        synapse.execute("CREATE TABLE applied_schema_deltas (version INTEGER, file TEXT)")
    synapse.close()
    before = (path.parent / "homeserver.db").read_bytes()

    refused = invoke("migrate", "-c", str(path), *options)

    assert refused.exit_code == 2
    assert "this is Synapse's database" in refused.output
    assert (path.parent / "homeserver.db").read_bytes() == before


def test_pending_migrations_of_a_new_database_are_listed_without_creating_it(
    tmp_path: Path,
) -> None:
    path = generate(tmp_path)

    listed = invoke("migrate", "-c", str(path), "--dry-run")

    assert "pending: 0001" in listed.output
    assert not (path.parent / "homeserver.db").exists()


def test_database_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    path = generate(tmp_path)
    nowhere = tmp_path / "none" / "x.db"
    path.write_text(path.read_text().replace("homeserver.db", str(nowhere)))

    failed = invoke("migrate", "-c", str(path))

    assert failed.exit_code == 1
    assert f"Error: the database {nowhere} (key database): cannot open" in failed.output


def test_printed_command_can_be_run_in_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "a folder" / "hs"
    program.parent.mkdir()
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setattr("sys.argv", [str(program)])

    assert command_name() == f"'{program}'"
    monkeypatch.setenv("PATH", str(program.parent))
    assert command_name() == "hs"
