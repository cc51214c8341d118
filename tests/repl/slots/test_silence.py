"""Processes without a sign of life, by the clock of the one that looks."""

from hs.repl.slots.silence import Silence
from hs.storage.stream_slots import Beat


def beat_of(name: str, number: int, *streams: str) -> Beat:
    return Beat(name, f"life of {name}", number, frozenset(streams))


def test_silence_is_the_time_of_looks_without_a_new_sign() -> None:
    silence = Silence(max_step_s=4)

    for number, now in enumerate((0, 2, 4, 6)):
        silence.look([beat_of("a", 7), beat_of("b", number)], [], now)

    assert silence.silent_s("a") == 6
    assert silence.silent_s("b") == 0


def test_time_in_which_this_process_was_stopped_is_not_silence_of_others() -> None:
    silence = Silence(max_step_s=4)

    silence.look([beat_of("a", 7)], [], 0)
    silence.look([beat_of("a", 7)], [], 60)

    assert silence.silent_s("a") == 4


def test_holder_that_was_never_heard_of_is_silent() -> None:
    silence = Silence(max_step_s=4)

    silence.look([], ["a"], 0)
    silence.look([], ["a"], 2)

    assert silence.silent_s("a") == 2
    assert "a" not in silence.last


def test_sign_that_was_removed_is_no_new_sign() -> None:
    silence = Silence(max_step_s=4)

    silence.look([beat_of("a", 7)], [], 0)
    silence.look([beat_of("a", 7)], [], 2)
    silence.look([], [], 4)
    silence.look([beat_of("a", 8)], [], 6)

    assert silence.silent_s("a") == 0
    assert silence.last["a"] == beat_of("a", 8)


def test_candidates_were_heard_of_and_take_slots_of_the_stream() -> None:
    silence = Silence(max_step_s=4)

    for now in (0, 4, 8):
        beats = [
            beat_of("a", now, "events"),
            beat_of("b", 1, "events"),
            beat_of("c", now, "typing"),
        ]
        silence.look(beats, [], now)

    assert silence.candidates("events", 8) == {"a"}
    assert silence.candidates("typing", 8) == {"c"}
