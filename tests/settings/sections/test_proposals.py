"""Settings of proposals: what is read, and what is rejected with a remedy."""

import pytest

from hs.settings.errors import SettingsError
from hs.settings.sections.proposals import ProposalSettings
from tests.settings.conftest import Load


def test_proposals_are_disabled_by_default(load: Load) -> None:
    assert load("").proposals == ProposalSettings()


def test_enabled_proposals_are_read(load: Load) -> None:
    proposals = load(
        "max_event_delay_duration: 24h\n"
        "experimental_features: {msc4306_enabled: true, msc3266_enabled: true}\n"
        "matrix_rtc: {transports: [{type: livekit, livekit_service_url: 'https://rtc'}]}\n"
    ).proposals

    assert proposals.max_event_delay_duration == 86_400_000
    assert proposals.experimental_features.thread_subscriptions
    assert proposals.matrix_rtc.transports[0]["livekit_service_url"] == "https://rtc"


def test_unknown_experiment_is_ignored_with_a_note(load: Load) -> None:
    settings = load("experimental_features: {msc3266_enabled: true}\n")

    assert [notice.key for notice in settings.notices] == ["experimental_features.msc3266_enabled"]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("max_event_delay_duration: 0", "max_event_delay_duration"),
        ("max_event_delay_duration: soon", "max_event_delay_duration"),
        ("experimental_features: {msc4306_enabled: 1}", "experimental_features.msc4306_enabled"),
        ("matrix_rtc: {transports: [{}]}", "matrix_rtc.transports.0.type"),
        ("matrix_rtc: {transports: {type: livekit}}", "matrix_rtc.transports"),
    ],
)
def test_invalid_value_is_reported_with_key_and_remedy(load: Load, text: str, key: str) -> None:
    with pytest.raises(SettingsError) as error:
        load(text + "\n")

    [problem] = error.value.problems
    assert problem.key == key
    assert problem.remedy
