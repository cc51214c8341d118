"""Settings of proposals: what is read, and what is rejected with a remedy."""

import pytest

from hs.apis.client.server.unstable_features import UNSTABLE_FEATURES
from hs.settings.errors import SettingsError
from hs.settings.sections.proposals import ALWAYS_SERVED, ProposalSettings
from tests.settings.conftest import Load


def test_proposals_are_disabled_by_default(load: Load) -> None:
    assert load("").proposals == ProposalSettings()


def test_enabled_proposals_are_read(load: Load) -> None:
    proposals = load(
        "max_event_delay_duration: 24h\n"
        "experimental_features: {msc4306_enabled: true, msc3266_enabled: true, "
        "msc3983_appservice_otk_claims: true}\n"
        "matrix_rtc: {transports: [{type: livekit, livekit_service_url: 'https://rtc'}]}\n"
    ).proposals

    assert proposals.max_event_delay_duration == 86_400_000
    assert proposals.experimental_features.thread_subscriptions
    assert proposals.experimental_features.appservice_key_claims
    assert not proposals.experimental_features.appservice_key_queries
    assert proposals.matrix_rtc.transports[0]["livekit_service_url"] == "https://rtc"


def test_experiment_is_noted_only_if_it_is_not_served_as_asked_for(load: Load) -> None:
    settings = load(
        "experimental_features: {msc3983_appservice_otk_claims: true, msc4108_enabled: true, "
        "msc4222_enabled: true, msc3391_enabled: false, faster_joins: true, "
        "msc4140_enabled: true, msc3861: {enabled: false}}\n"
    )

    assert [(notice.key, notice.message) for notice in settings.notices] == [
        (
            "experimental_features.msc4108_enabled",
            "ignored: this server does not have this experiment",
        ),
        (
            "experimental_features.msc3391_enabled",
            "ignored: this server always has this proposal",
        ),
        (
            "experimental_features.faster_joins",
            "ignored: this server does not have this experiment",
        ),
        (
            "experimental_features.msc4140_enabled",
            "ignored: max_event_delay_duration enables delayed events",
        ),
    ]


def test_proposals_that_are_always_served_are_implemented() -> None:
    """Clients see most of them in /versions; the others are named where they are implemented."""
    without_flag = {"2409", "3202", "3266", "4262"}
    announced = " ".join(UNSTABLE_FEATURES)

    assert {number for number in ALWAYS_SERVED if f"msc{number}" not in announced} == without_flag


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
