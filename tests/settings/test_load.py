"""Loading files: merging, unknown keys, and mistakes reported with file, line and remedy."""

import logging
import logging.config
from pathlib import Path

import pytest

from hs.settings.errors import SettingsError
from hs.settings.load import load_settings
from hs.settings.sections.rate_limits import Rate
from tests.settings.conftest import Load, Refused


def test_server_name_alone_is_a_complete_configuration(load: Load) -> None:
    settings = load("server_name: example.org")

    assert settings.server.server_name == "example.org"
    assert settings.database.is_sqlite
    assert settings.workers.is_main
    assert [listener.port for listener in settings.listeners] == [8008]
    assert settings.notices == ()


def test_missing_server_name_is_rejected(refused: Refused) -> None:
    assert "0.yaml: server_name: missing" in refused("# server_name is not here\npid_file: x")


def test_worker_without_the_shared_file_is_told_to_name_it(refused: Refused) -> None:
    app = "worker_app: synapse.app.generic_worker"

    message = refused(f"# server_name is not here\n{app}\nworker_name: w1")

    assert "name the shared file before that of the worker" in message


def test_later_file_replaces_whole_top_level_keys(load: Load) -> None:
    settings = load("presence: {enabled: false, idle_timeout: 1m}", "presence: {idle_timeout: 2m}")

    assert settings.presence.enabled is True
    assert settings.presence.idle_timeout == 120_000


def test_yaml_files_of_a_directory_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "20-b.yaml").write_text("bcrypt_rounds: 5")
    (tmp_path / "10-a.yaml").write_text("server_name: a.org\nbcrypt_rounds: 4")
    (tmp_path / "30-c.yml").write_text("bcrypt_rounds: 6")
    (tmp_path / "sub.yaml").mkdir()

    settings = load_settings([tmp_path], {})

    assert settings.registration.bcrypt_rounds == 5
    assert [file.name for file in settings.files] == ["10-a.yaml", "20-b.yaml"]


def test_empty_file_is_skipped_with_a_notice(load: Load) -> None:
    settings = load("server_name: a.org", "# nothing\n")

    assert [notice.message for notice in settings.notices] == ["file contains no keys, skipped"]


def test_log_configuration_in_a_directory_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "homeserver.yaml").write_text("server_name: a.org")
    (tmp_path / "log.yaml").write_text("version: 1\nroot: {level: INFO}")

    settings = load_settings([tmp_path], {})

    assert settings.notices == ()
    assert [file.name for file in settings.files] == ["homeserver.yaml"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\nb: \xff", "0.yaml:2: file is not encoded as UTF-8"),
        (None, "0.yaml: cannot read the file: Too many levels of symbolic links"),
    ],
)
def test_unreadable_file_is_reported(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "0.yaml"
    path.symlink_to(path) if content is None else path.write_bytes(content)

    with pytest.raises(SettingsError) as error:
        load_settings([path], {})

    assert message in str(error.value)


def test_mistake_names_file_line_key_and_remedy(refused: Refused) -> None:
    message = refused("presence:\n  idle_timeout: soon")

    assert "0.yaml:2: presence.idle_timeout: expected a duration, found 'soon'" in message
    assert "→ write milliseconds" in message


@pytest.mark.parametrize(
    "written",
    [
        "pid_file: ~nobody.of.this.name/x",
        'pid_file: "a\\0b"',
        'registration_shared_secret_path: "\\0"',
        'database: {name: sqlite3, args: {database: "\\0"}}',
        "rc_message: {per_second: .inf}",
        "rc_message: {burst_count: .nan}",
        "caches: {global_factor: -1}",
        "caches: {per_cache_factors: {events: -0.5}}",
        f"event_cache_size: '{'1' * 5000}'",
        f"user_ips_max_age: '{'1' * 5000}d'",
    ],
)
def test_unusable_values_are_rejected(refused: Refused, written: str) -> None:
    assert f": {written.partition(':')[0]}" in refused(written)


def test_all_mistakes_are_reported_at_once(refused: Refused) -> None:
    message = refused("bcrypt_rounds: 99\nturn_allow_guests: perhaps")

    assert "bcrypt_rounds" in message
    assert "turn_allow_guests" in message


def test_mistakes_are_reported_in_the_order_of_files_and_lines(refused: Refused) -> None:
    message = refused("turn_allow_guests: perhaps\nbcrypt_rounds: 99", "max_upload_size: lots")

    assert message.index("turn_allow") < message.index("bcrypt") < message.index("max_upload")


def test_unknown_key_is_a_warning_with_a_suggestion(load: Load) -> None:
    [notice] = load("enable-registration: true").notices

    assert notice.is_warning
    assert notice.message == "unknown key, ignored; did you mean enable_registration?"


def test_unknown_key_in_a_block_is_a_warning(load: Load) -> None:
    [notice] = load("redis: {host-: r}").notices

    assert notice.key == "redis.host-"
    assert "did you mean host?" in notice.message


def test_unknown_key_is_rejected_with_strict(refused: Refused) -> None:
    assert "unknown key" in refused("enable_registraton: false", strict=True)


def test_key_without_effect_is_noted_once(load: Load) -> None:
    [notice] = load("manhole: 9000").notices

    assert (notice.key, notice.message) == ("manhole", "has no effect in this version")
    assert not notice.is_warning


def test_empty_block_without_effect_is_not_noted(load: Load) -> None:
    assert load("old_signing_keys:\nsaml2_config:\n").notices == ()


def test_type_of_every_key_is_checked(refused: Refused) -> None:
    assert "max_upload_size: expected a size" in refused("max_upload_size: huge")


def test_key_without_effect_set_to_its_default_is_not_noted(load: Load) -> None:
    assert load("report_stats: false").notices == ()


def test_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        load_settings([tmp_path / "none.yaml"], {})


def test_invalid_yaml_is_reported_with_its_line(refused: Refused) -> None:
    assert "0.yaml:4: not valid YAML" in refused("a: 1\nb: [1\n")


def test_duplicate_key_is_reported(load: Load) -> None:
    settings = load("bcrypt_rounds: 4\nbcrypt_rounds: 5")

    assert "occurs twice" in settings.notices[0].message


def test_duplicate_key_in_a_block_is_reported_with_its_line(load: Load) -> None:
    settings = load("password_config:\n  enabled: false\n  policy:\n    {}\n  enabled: true\n")

    [notice] = settings.notices
    assert str(notice).endswith(
        "0.yaml:6: password_config.enabled: key occurs twice in this file, the last one is used"
    )


def test_merged_key_that_is_set_again_is_no_duplicate(load: Load) -> None:
    settings = load(
        "rc_login:\n  address: &rate {per_second: 1, burst_count: 3}\n"
        "  account: {<<: *rate, burst_count: 9}\n  failed_attempts: *rate\n"
    )

    assert settings.notices == ()
    assert settings.rate_limits.rc_login.account == Rate(1, 9)


def test_dates_are_versions_of_terms(load: Load, tmp_path: Path) -> None:
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / "2018-11-14.html").touch()

    settings = load("user_consent: {template_dir: ., version: 2018-11-14}")

    assert settings.consent.version == "2018-11-14"


def test_partial_rate_keeps_the_other_default(load: Load) -> None:
    limits = load("rc_message: {per_second: 7}\nrc_login: {address: {burst_count: 9}}").rate_limits

    assert limits.rc_message == Rate(7, 10)
    assert limits.rc_login.address == Rate(0.003, 9)
    assert limits.rc_login.account == Rate(0.003, 5)


def test_secret_is_read_from_a_file(load: Load, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")

    assert load("form_secret_path: secret").secrets.form_secret == "s3cret"


def test_secret_given_inline_and_as_file_is_rejected(refused: Refused) -> None:
    assert "remove one of" in refused("form_secret: a\nform_secret_path: b")


def test_secrets_are_not_in_the_repr_of_settings(load: Load) -> None:
    assert "hush" not in repr(load("form_secret: hush\nworker_replication_secret: hush"))


def test_relative_paths_start_at_the_directory_of_their_file(load: Load, tmp_path: Path) -> None:
    settings = load("database: {name: sqlite3, args: {database: my.db}}")

    assert settings.database.path == tmp_path / "my.db"
    assert settings.signing_keys.signing_key_path == tmp_path / "example.org.signing.key"


def test_legacy_keys_are_converted(load: Load) -> None:
    settings = load("use_presence: false\nrc_messages_per_second: 3\nrc_message_burst_count: 4")

    assert settings.presence.enabled is False
    assert settings.rate_limits.rc_message == Rate(3, 4)


def test_cache_factor_is_read_from_the_environment(load: Load) -> None:
    settings = load("", environ={"SYNAPSE_CACHE_FACTOR": "2"})

    assert settings.caches.caches.factor("anything") == 2


@pytest.mark.parametrize("written", ["much", "-1", "nan", "inf"])
def test_invalid_cache_factor_in_the_environment_is_rejected(load: Load, written: str) -> None:
    with pytest.raises(SettingsError, match="SYNAPSE_CACHE_FACTOR"):
        load("", environ={"SYNAPSE_CACHE_FACTOR": written})


def test_open_registration_without_verification_is_rejected(refused: Refused) -> None:
    assert "registration_requires_token" in refused("enable_registration: true")


def test_class_names_of_synapse_in_log_config_are_translated(load: Load, tmp_path: Path) -> None:
    (tmp_path / "log.yaml").write_text(
        "filters: {context: {(): synapse.util.logcontext.LoggingContextFilter}}\n"
        "handlers:\n  buffer:\n"
        "    class: synapse.logging.handlers.PeriodicallyFlushingMemoryHandler\n"
        "    period: 5\n    capacity: 10\n"
    )

    config = load("log_config: log.yaml").logging.config

    assert config is not None
    assert config["filters"]["context"]["()"] == "hs.lib.log.ContextFilter"
    assert config["handlers"]["buffer"] == {
        "class": "logging.handlers.MemoryHandler",
        "capacity": 1,
    }


def test_malformed_log_config_is_passed_to_python_unchanged(load: Load, tmp_path: Path) -> None:
    (tmp_path / "log.yaml").write_text(
        "formatters: {f: {format: '{request}', style: '{'}}\n"
        "handlers: {a: {class: [odd], filters: odd}, b: odd}\n"
    )

    config = load("log_config: log.yaml").logging.config

    assert config is not None
    assert config["handlers"] == {"a": {"class": ["odd"], "filters": "odd"}, "b": "odd"}


def test_default_log_config_of_synapse_works(
    load: Load, tmp_path: Path, restored_logging: None
) -> None:
    """It formats %(request)s without any filter, and buffers lines."""
    (tmp_path / "log.yaml").write_text(
        "version: 1\n"
        "formatters:\n  precise:\n"
        "    format: '%(name)s - %(levelname)s - %(request)s - %(message)s'\n"
        "handlers:\n"
        f"  file: {{class: logging.handlers.TimedRotatingFileHandler, formatter: precise, "
        f"filename: {tmp_path}/hs.log, when: midnight, backupCount: 3, encoding: utf8}}\n"
        "  buffer: {class: synapse.logging.handlers.PeriodicallyFlushingMemoryHandler, "
        "target: file, capacity: 10, flushLevel: 30, period: 5}\n"
        "root: {level: INFO, handlers: [buffer]}\n"
        "disable_existing_loggers: false\n"
    )
    config = load("log_config: log.yaml").logging.config
    assert config is not None

    logging.config.dictConfig(dict(config))
    logging.getLogger("hs.access").info("a line")

    assert (tmp_path / "hs.log").read_text() == "hs.access - INFO - - - a line\n"


def test_log_config_keeps_existing_loggers_enabled_by_default(
    load: Load, tmp_path: Path, restored_logging: None
) -> None:
    """By default, Python would disable all loggers that exist when the configuration is applied."""
    access = logging.getLogger("hs.access")
    (tmp_path / "log.yaml").write_text(
        f"handlers: {{file: {{class: logging.FileHandler, filename: {tmp_path}/hs.log}}}}\n"
        "root: {level: INFO, handlers: [file]}\n"
    )
    config = load("log_config: log.yaml").logging.config
    assert config is not None

    logging.config.dictConfig(dict(config))
    access.info("a line")

    assert (tmp_path / "hs.log").read_text() == "a line\n"


def test_unreadable_replication_secret_is_one_problem(refused: Refused) -> None:
    message = refused(
        "worker_replication_secret_path: none\n"
        "listeners: [{port: 9093, resources: [{names: [replication]}]}]\n"
    )

    assert message.count("worker_replication_secret") == 1
    assert "0.yaml:2: worker_replication_secret_path: cannot read" in message
