"""`hs check-config` fails where `hs serve` fails, and changes nothing."""

import logging
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hs.cli.main import run
from hs.settings.errors import EXIT_BAD_CONFIG
from tests.support.servers.processes import free_ports

CONFIG = """
server_name: example.org
signing_key: "ed25519 a_test {key}"
database: {{name: sqlite3, args: {{database: homeserver.db}}}}
listeners:
  - port: {port}
    bind_addresses: ['127.0.0.1']
    type: http
    resources: [{{names: [client]}}]
"""
WORKER = """
worker_app: synapse.app.generic_worker
worker_name: w1
worker_log_config: no_class.yaml
instance_map: {main: {host: localhost, port: 9093}}
redis: {enabled: true}
database: {name: psycopg2, args: {database: d}}
"""
LOG = """
version: 1
formatters:
  line: {format: '%%(levelname)s %%(message)s'}
handlers:
  file: {class: logging.FileHandler, formatter: line, filename: %s}
root: {level: INFO, handlers: [file]}
"""
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """Restore the logging of the test process, which starting a server replaces."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with which a server could start."""
    [port] = free_ports(1)
    path = tmp_path / "homeserver.yaml"
    path.write_text(CONFIG.format(key="A" * 43, port=port))
    return path


def hs(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run a command; return its exit status."""
    monkeypatch.setattr("sys.argv", ["hs", *map(str, arguments)])
    try:
        run()
    except SystemExit as exited:
        return int(exited.code or 0)
    return 0


BROKEN = {
    "signing key missing": ('signing_key: "ed25519', 'signing_key_path: x\n#"', "signing_key_path"),
    "signing key malformed": ("a_test ", "a_test !", "signing_key"),
    "class of log handler unknown": ("", "log_config: no_class.yaml", "synapse.logging.Nothing"),
    "folder of log file missing": ("", "log_config: no_folder.yaml", "none/hs.log"),
    "class of worker's log handler unknown": (
        "",
        WORKER,
        "worker_log_config: ",
    ),
    "syslog socket missing": (
        "",
        "log_config: no_syslog.yaml",
        "handler 'file': no syslog service",
    ),
    "format of log unknown": ("", "log_config: no_format.yaml", "handler 'file': Formatting field"),
    "address of another machine": ("127.0.0.1", "192.0.2.1", "192.0.2.1 port"),
    "address that is none": ("127.0.0.1", "nowhere.invalid", "nowhere.invalid port"),
    "socket in missing folder": ("", "listeners: [{path: none/hs.sock}]", "none/hs.sock"),
    "socket with a long path": ("", f"listeners: [{{path: {'x' * 100}/hs.sock}}]", "107 bytes"),
    "socket that is a file": ("", "listeners: [{path: homeserver.yaml}]", "homeserver.yaml"),
    "folder of database missing": ("database: homeserver.db", "database: none/x.db", "none/x.db"),
    "folder of PID file missing": ("", "pid_file: none/hs.pid", "none/hs.pid"),
    "media folder that is a file": (
        "",
        "media_store_path: homeserver.yaml/media",
        "Not a directory",
    ),
    "storage provider that is a file": (
        "",
        "media_storage_providers: [{module: file_system, config: {directory: no_class.yaml}}]",
        "media_storage_providers.0: cannot write files in",
    ),
    "mail template malformed": (
        "",
        "templates: {custom_template_directory: broken}",
        "registration.html: line 2: ",
    ),
    "included template missing": ("", "email: {notif_from: a, template_dir: broken}", "'none.txt'"),
    "terms malformed": (
        "",
        "public_baseurl: https://a\nuser_consent: {version: 1, template_dir: broken}",
        "1.html: line 1: ",
    ),
    "oEmbed providers missing": (
        "",
        "url_preview_enabled: true\noembed: {additional_providers: [none.json]}",
        "none.json",
    ),
    "restriction without effect": ("", "modules: [{module: a.B}]", "--allow-ineffective modules"),
    "port of database malformed": (
        "{name: sqlite3, args: {database: homeserver.db}}",
        "{name: psycopg2, args: {database: d, host: 127.0.0.1, port: x}}",
        "database.args.port",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_check_config_and_serve_fail_alike(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, case: str
) -> None:
    old, new, cause = BROKEN[case]
    folder = config.parent
    (folder / "no_class.yaml").write_text(
        LOG.replace("logging.File", "synapse.logging.Nothing") % "hs.log"
    )
    (folder / "no_folder.yaml").write_text(LOG % (folder / "none" / "hs.log"))
    (folder / "broken" / "en").mkdir(parents=True)
    (folder / "broken" / "registration.html").write_text("\n{% if %}")
    (folder / "broken" / "notif_mail.txt").write_text("{% include 'none.txt' %}")
    (folder / "broken" / "en" / "1.html").write_text("{{ ")
    syslog = LOG.replace("FileHandler, ", "handlers.SysLogHandler, ").replace("filename", "address")
    (folder / "no_syslog.yaml").write_text(syslog % (folder / "none"))
    unknown_field = LOG.replace("levelname", "nothing")
    (folder / "no_format.yaml").write_text(unknown_field % (folder / "hs.log"))
    text = config.read_text()
    config.write_text(text.replace(old, new) if old else f"{text}\n{new}\n")
    before = sorted(folder.iterdir())

    checked = hs(monkeypatch, "check-config", "-c", config)
    report = capsys.readouterr().err
    files = sorted(folder.iterdir())
    served = hs(monkeypatch, "serve", "-c", config)
    failure = capsys.readouterr().err

    assert checked == EXIT_BAD_CONFIG
    assert served in (1, EXIT_BAD_CONFIG)
    assert cause in report
    assert cause in failure
    assert "Traceback" not in report + failure
    assert files == before


def test_usable_configuration_leaves_no_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = config.parent
    (folder / "log.yaml").write_text(LOG % (folder / "hs.log"))
    config.write_text(f"{config.read_text()}log_config: log.yaml\npid_file: hs.pid\n")
    before = sorted(folder.iterdir())
    handlers = logging.getLogger().handlers[:]

    assert hs(monkeypatch, "check-config", "--online", "-c", config) == 0

    assert sorted(folder.iterdir()) == before
    assert logging.getLogger().handlers == handlers


def test_existing_log_file_is_kept(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = config.parent
    (folder / "log.yaml").write_text(LOG % (folder / "hs.log"))
    (folder / "hs.log").write_text("a line\n")
    config.write_text(f"{config.read_text()}log_config: log.yaml\n")

    assert hs(monkeypatch, "check-config", "-c", config) == 0

    assert (folder / "hs.log").read_text() == "a line\n"


def test_port_in_use_is_a_warning_because_the_server_may_be_running(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        config.write_text(CONFIG.format(key="A" * 43, port=port))

        assert hs(monkeypatch, "check-config", "-c", config) == 0

    assert f"Address already in use: 127.0.0.1 port {port}, perhaps" in capsys.readouterr().err


def test_file_that_is_no_database_is_found_online(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    (config.parent / "homeserver.db").write_text("This is my diary. " * 1000)

    assert hs(monkeypatch, "check-config", "-c", config) == 0
    assert hs(monkeypatch, "check-config", "--online", "-c", config) == EXIT_BAD_CONFIG
    assert hs(monkeypatch, "serve", "-c", config) == 1

    assert "not a database" in capsys.readouterr().err


def test_database_of_synapse_is_refused_by_both_with_status_2(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    with closing(sqlite3.connect(config.parent / "homeserver.db")) as conn:
        conn.execute("CREATE TABLE applied_schema_deltas (version INTEGER, file TEXT)")
    before = (config.parent / "homeserver.db").read_bytes()

    for arguments in (["check-config"], ["check-config", "--online"], ["serve"]):
        assert hs(monkeypatch, *arguments, "-c", config) == EXIT_BAD_CONFIG
        assert "Synapse's" in capsys.readouterr().err

    assert (config.parent / "homeserver.db").read_bytes() == before


def test_database_of_a_newer_version_is_refused_by_both_with_status_2(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    with closing(sqlite3.connect(config.parent / "homeserver.db")) as conn:
        conn.execute("CREATE TABLE schema_migrations (number INTEGER, name TEXT)")
        conn.execute("INSERT INTO schema_migrations VALUES (9999, 'next_year')")
        conn.commit()

    for arguments in (["check-config", "--online"], ["migrate"], ["serve"]):
        assert hs(monkeypatch, *arguments, "-c", config) == EXIT_BAD_CONFIG
        assert "a newer version of hs has migrated this database" in capsys.readouterr().err


def test_unreachable_database_server_is_found_online(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    [port] = free_ports(1)
    postgres = f"{{name: psycopg2, args: {{database: d, host: 127.0.0.1, port: {port}}}}}"
    sqlite = "{name: sqlite3, args: {database: homeserver.db}}"
    config.write_text(config.read_text().replace(sqlite, postgres))

    assert hs(monkeypatch, "check-config", "-c", config) == 0
    assert hs(monkeypatch, "check-config", "--online", "-c", config) == EXIT_BAD_CONFIG

    assert f"the database d at 127.0.0.1:{port}" in capsys.readouterr().err


def test_missing_library_is_found(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr("hs.nursery.wiring.media.is_s3_available", lambda: False)
    provider = "{module: s3_storage_provider.S3StorageProviderBackend, config: {bucket: b}}"
    config.write_text(f"{config.read_text()}media_storage_providers: [{provider}]\n")

    assert hs(monkeypatch, "check-config", "-c", config) == EXIT_BAD_CONFIG

    assert "install hs[s3]" in capsys.readouterr().err


def test_allowed_restriction_is_a_warning_for_both(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr("hs.cli.serve.run_server", lambda settings: 0)
    config.write_text(f"{config.read_text()}modules: [{{module: a.B}}]\noidc_providers: [{{}}]\n")

    for command in ("check-config", "serve"):
        assert hs(monkeypatch, command, "-c", config, "--allow-ineffective", "modules") == 2
        monkeypatch.setenv("HS_ALLOW_INEFFECTIVE", "modules oidc_providers")
        assert hs(monkeypatch, command, "-c", config) == 0
        assert "warning: " in capsys.readouterr().err
        monkeypatch.delenv("HS_ALLOW_INEFFECTIVE")


def test_unknown_key_cannot_be_allowed(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--allow-ineffective", "module")

    assert hs(monkeypatch, "check-config", "-c", config, *options) == EXIT_BAD_CONFIG


def test_other_commands_do_not_refuse_restrictions(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text(f"{config.read_text()}modules: [{{module: a.B}}]\n")

    assert hs(monkeypatch, "plan", "-c", config) == 0
    assert hs(monkeypatch, "migrate", "-c", config) == 0


def test_checking_does_not_disturb_the_socket_of_a_running_server(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(os.path.relpath(config.parent))
    path = folder / "hs.sock"
    config.write_text(f"{config.read_text()}\nlisteners: [{{path: hs.sock}}]\n")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        assert hs(monkeypatch, "check-config", "-c", config) == 0

        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_configuration_with_redis_is_usable(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text(f"{config.read_text()}redis: {{enabled: true}}\n")

    assert hs(monkeypatch, "check-config", "-c", config) == 0


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("signing_key_path: none.key", "signing_key_path"),
        ("log_config: no_class.yaml", "log_config"),
    ],
)
def test_what_only_a_start_finds_has_file_and_line(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, line: str, key: str
) -> None:
    (config.parent / "no_class.yaml").write_text(LOG.replace("logging.File", "a.Nothing") % "x")
    text = config.read_text()
    kept = text.replace("signing_key:", "#") if key == "signing_key_path" else text
    config.write_text(f"{kept}{line}\n")
    number = config.read_text().count("\n")

    for command in ("check-config", "serve"):
        assert hs(monkeypatch, command, "-c", config) == EXIT_BAD_CONFIG
        assert f"{config}:{number}: {key}: " in capsys.readouterr().err


def test_serve_creates_the_missing_file_of_the_registration_secret(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    path = config.parent / "secret"
    text = config.read_text().replace("127.0.0.1", "192.0.2.1")  # so that it stops at once
    config.write_text(f"{text}registration_shared_secret_path: secret\n")

    hs(monkeypatch, "check-config", "-c", config)
    is_created_by_check = path.exists()
    hs(monkeypatch, "serve", "-c", config)
    secret = path.read_text()
    hs(monkeypatch, "serve", "-c", config)

    assert not is_created_by_check
    assert len(secret.strip()) >= 40
    assert path.read_text() == secret
    assert path.stat().st_mode & 0o777 == 0o600
    assert secret.strip() not in "".join(capsys.readouterr())


def test_all_files_are_checked_together_and_a_shared_mistake_is_told_once(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch, config: Path
) -> None:
    shared = config.read_text().partition("database:")[0]
    config.write_text(
        f"{shared}database: {{name: psycopg2, args: {{database: d}}}}\nredis: {{enabled: true}}\n"
        "listeners: []\ninstance_map: {main: {host: localhost, port: 9093}}\n"
        "pusher_instances: [pusher1]\n"
    )
    workers = config.parent / "workers"
    workers.mkdir()
    for name in ("w1", "w2"):
        app = "worker_app: synapse.app.generic_worker\n"
        (workers / f"{name}.yaml").write_text(f"{app}worker_name: {name}\n")

    status = hs(monkeypatch, "check-config", "-c", config, "--workers", workers)

    told = capfd.readouterr().err
    assert status == EXIT_BAD_CONFIG
    assert told.count("names pusher1 for sending notifications") == 1
    assert "no listener has the resource `replication`" in told
