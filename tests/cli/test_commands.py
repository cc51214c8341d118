"""The commands that need no running server."""

import json
import stat
from pathlib import Path

import bcrypt
import pytest
from click.testing import CliRunner, Result

from hs import __version__
from hs.cli.main import EXIT_BAD_CONFIG, cli, run
from hs.cli.serve import own_command
from hs.core.signing.keys import parse_signing_keys
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


def test_an_unknown_command_is_told() -> None:
    result = invoke("dance")

    assert result.exit_code == 2
    assert "No such command" in result.output


def test_a_generated_configuration_is_usable(tmp_path: Path) -> None:
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


def test_secrets_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    generate(tmp_path)

    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_the_database_keeps_is_for_its_owner_only(tmp_path: Path) -> None:
    generate(tmp_path / "new")

    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def test_generating_again_changes_nothing(tmp_path: Path) -> None:
    generate(tmp_path)
    before = {path: path.read_text() for path in tmp_path.iterdir()}

    result = invoke("generate-config", "-H", "other.org", "--data-dir", str(tmp_path))

    assert "left as it is" in result.output
    assert all(path.read_text() == text for path, text in before.items())


def test_a_wrong_server_name_is_told_without_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["hs", "generate-config", "-H", "https://example.org"])

    with pytest.raises(SystemExit) as stopped:
        run()

    assert stopped.value.code == EXIT_BAD_CONFIG
    told = capsys.readouterr().err
    assert "is not a server name" in told
    assert "Traceback" not in told


def test_checking_a_configuration_tells_what_it_is(tmp_path: Path) -> None:
    result = invoke("check-config", "-c", str(generate(tmp_path)))

    assert result.exit_code == 0
    assert "example.org is usable: the main process, sqlite, listening on port 8008" in (
        result.output
    )


def test_checking_tells_warnings(tmp_path: Path) -> None:
    path = generate(tmp_path)
    path.write_text(path.read_text() + "\nenable-registration: true\n")

    result = invoke("check-config", "-c", str(path))

    assert "did you mean enable_registration?" in result.output


def test_a_mistake_ends_with_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "homeserver.yaml"
    path.write_text("server_name: a.org\nbcrypt_rounds: many\n")
    monkeypatch.setattr("sys.argv", ["hs", "check-config", "-c", str(path)])

    with pytest.raises(SystemExit) as stopped:
        run()

    assert stopped.value.code == EXIT_BAD_CONFIG
    assert f"{path}:2: bcrypt_rounds: expected a whole number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["check-config", "-c", "{folder}/typo.yaml"], "did you mean server_name?"),
        (["check-config", "-c", "{folder}/list.yaml"], "list.yaml: holds no keys"),
        (["check-config", "-c", "{folder}/none"], "none: holds no *.yaml"),
        (["check-config", "-c", "{folder}/bytes.yaml"], "bytes.yaml:2: not valid YAML"),
        (["check-config", "-c", "{folder}/nested.yaml"], "nested.yaml: nested too deeply"),
        (["check-config", "-c", "{folder}/logs.yaml"], "log_config: the file cannot be read"),
        (["reference", "{folder}/none"], "none/configuration.md: "),
    ],
)
def test_whatever_is_wrong_is_told_without_trace(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    told: str,
) -> None:
    (tmp_path / "typo.yaml").write_text("server-name: a.org\n")
    (tmp_path / "list.yaml").write_text("- a\n")
    (tmp_path / "bytes.yaml").write_text("server_name: a.org\n\0")
    (tmp_path / "nested.yaml").write_text("a: " + "[" * 5000)
    (tmp_path / "logs.yaml").write_text("server_name: a.org\nlog_config: .\n")
    (tmp_path / "none" / "configuration.md").mkdir(parents=True)
    filled = [one.format(folder=tmp_path) for one in arguments]
    monkeypatch.setattr("sys.argv", ["hs", *filled])

    with pytest.raises(SystemExit) as stopped:
        run()

    assert stopped.value.code in (1, EXIT_BAD_CONFIG)
    assert told in capsys.readouterr().err


def test_checking_tells_that_the_signing_key_is_missing(tmp_path: Path) -> None:
    path = generate(tmp_path)
    (tmp_path / "example.org.signing.key").unlink()

    result = invoke("check-config", "-c", str(path))

    assert result.exit_code == 0
    assert "signing_key_path: the key" in result.output


def test_an_unknown_resource_is_told() -> None:
    result = invoke("routes", "--resource", "cleint")

    assert result.exit_code == 2
    assert "there are " in result.output
    assert "client" in result.output


def test_a_hash_uses_the_pepper_of_the_server(tmp_path: Path) -> None:
    path = generate(tmp_path)
    path.write_text(path.read_text() + "\npassword_config: {pepper: salty}\nbcrypt_rounds: 4\n")

    result = invoke("hash-password", "-p", "secret", "-c", str(path))

    assert result.output.startswith("$2b$04$")
    assert bcrypt.checkpw(b"secretsalty", result.output.strip().encode())


def test_the_password_to_hash_is_asked_for() -> None:
    result = invoke("hash-password", "--rounds", "4", text="pw\npw\n")

    assert bcrypt.checkpw(b"pw", result.output.splitlines()[-1].encode())


def test_the_version_is_told() -> None:
    assert __version__ in invoke("version").output


def test_the_plan_of_a_single_process_names_its_parts(tmp_path: Path) -> None:
    result = invoke("plan", "-c", str(generate(tmp_path)))

    assert result.exit_code == 0, result.output
    assert "sqlite" in result.output
    assert "127.0.0.1:8008" in result.output


def test_routes_are_listed_for_people_and_for_programs() -> None:
    listed = invoke("routes")
    as_json = json.loads(invoke("routes", "--json").output)

    assert listed.exit_code == 0, listed.output
    assert "GET     /health" in listed.output
    assert {"path": "/health", "method": "GET", "resources": ["health"]} in as_json


def test_a_new_database_is_migrated_once(tmp_path: Path) -> None:
    path = str(generate(tmp_path))

    lacking = invoke("migrate", "-c", path, "--dry-run")
    applied = invoke("migrate", "-c", path)
    again = invoke("migrate", "-c", path)

    assert "lacking: 0001" in lacking.output
    assert "applied: 0001" in applied.output
    assert "The schema is up to date." in again.output


def test_a_database_that_cannot_be_migrated_is_named(tmp_path: Path) -> None:
    path = generate(tmp_path)
    nowhere = tmp_path / "none" / "x.db"
    path.write_text(path.read_text().replace("homeserver.db", str(nowhere)))

    failed = invoke("migrate", "-c", str(path))

    assert failed.exit_code == 1
    assert f"Error: the database {nowhere} (key database): cannot open" in failed.output


def test_the_printed_command_is_one_that_a_shell_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "a folder" / "hs"
    program.parent.mkdir()
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setattr("sys.argv", [str(program)])

    assert own_command() == f"'{program}'"
    monkeypatch.setenv("PATH", str(program.parent))
    assert own_command() == "hs"
