"""Clip placement: upstream's exact times, and what holds for any recording."""

import json
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extraction.preprocess.clips import CLIP_SECONDS, clip_times


def test_times_are_upstream_s(shared):
    folder = shared / "parity/imagebind"
    sounds = json.loads((folder / "audio_melspec.json").read_text())["files"].values()
    films = json.loads((folder / "video_sampling.json").read_text())["rows"]
    cases = [(sound["duration_s"], sound["clip_seconds"]) for sound in sounds]
    cases += [(film["duration"], film["clip_seconds"]) for film in films]
    assert len(cases) == 30
    for duration, expected in cases:
        assert [list(map(float, times)) for times in clip_times(duration, len(expected))] == expected


@given(duration=st.floats(0, 1e5), num_clips=st.integers(1, 9))
def test_clips_are_equally_spaced_from_start_to_end(duration, num_clips):
    times = clip_times(duration, num_clips)
    starts = [start for start, _ in times]
    assert len(times) == num_clips
    assert all(end - start == CLIP_SECONDS for start, end in times)
    assert starts[0] == 0
    assert len({after - before for before, after in pairwise(starts)}) <= 1
    if num_clips > 1 and duration >= CLIP_SECONDS:
        assert times[-1][1] == Fraction(duration)
    if duration < CLIP_SECONDS:
        assert set(starts) == {0}


@pytest.mark.parametrize("num_clips", [1, 3])
def test_a_recording_as_long_as_a_clip_has_one_place_for_it(num_clips):
    assert set(clip_times(2.0, num_clips)) == {(Fraction(0), Fraction(2))}
