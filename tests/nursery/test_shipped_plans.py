"""The example of twelve processes leaves nothing undone, and nothing done twice."""

from collections import Counter
from pathlib import Path

from click.testing import CliRunner

from hs.cli.main import cli
from hs.nursery.plan import FEDERATION, Plan, plan_of
from hs.settings.load import load_settings

FOLDER = Path(__file__).parent.parent.parent / "config" / "workers"
SHARED = FOLDER / "shared.yaml"
FILES = [
    [SHARED],
    *([SHARED, path] for path in sorted(FOLDER.glob("*.yaml")) if path != SHARED),
]


def plans() -> list[Plan]:
    return [plan_of(load_settings(files, {})) for files in FILES]


def test_there_are_twelve_of_which_one_is_main() -> None:
    names = {plan.instance for plan in plans()}

    assert len(names) == len(FILES) == 12
    assert [plan.instance for plan in plans() if plan.migrates] == ["main"]


def test_what_one_process_does_alone_is_done_by_exactly_one_of_the_twelve() -> None:
    alone = plan_of(load_settings([FOLDER.parent / "homeserver.yaml"], {}))
    duties = Counter(duty for plan in plans() for duty in plan.duties)
    streams = Counter(stream for plan in plans() for stream in plan.writes)

    assert duties == dict.fromkeys(alone.duties, 1)
    assert streams == {**dict.fromkeys(alone.writes, 1), "events": 2, "backfill": 2}


def test_the_main_process_has_no_duty_that_has_a_worker() -> None:
    assert plans()[0].duties == (FEDERATION,)


def test_hs_plan_shows_each_of_them_without_complaint() -> None:
    for files in FILES:
        options = [word for path in files for word in ("--config", str(path))]

        shown = CliRunner().invoke(cli, ["plan", *options])

        assert shown.exit_code == 0, shown.output
        assert not shown.stderr
