"""Sounds against upstream's values, odd sounds, damaged files."""

import json
import math
import re
import subprocess
import sys

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from extraction.errors import InputError
from extraction.preprocess.audio import filter_bank, load_audio, preprocess_audio, resample

soundfile = pytest.importorskip("soundfile", reason="soundfile is absent: pip install malmm[audio]")

NAMES = [
    *("bird_audio", "car_audio", "dog_audio"),
    *("dc_steps_16k", "mono_8k", "short_mono_16k", "silence_16k", "stereo_48k"),
]
LARGEST = {"dc_steps_16k": 1e-4, "silence_16k": 1e-4, "stereo_48k": 1e-3}  # elsewhere 2e-2: quiet bins
SILENCE = (math.log(2**-23) + 4.268) / 9.138
PADDING = 4.268 / 9.138


@pytest.fixture(scope="module")
def cases(shared):
    folder = shared / "parity/imagebind"
    sounds = json.loads((folder / "audio_melspec.json").read_text())["files"]
    assert sorted(sounds) == sorted(NAMES)
    values = load_file(folder / "audio_melspec.safetensors")
    return {name: (shared / sound["where"] / sound["file"], sound, values) for name, sound in sounds.items()}


def noise(num_samples, channels=1, seed=0):
    return torch.randn(channels, num_samples, generator=torch.Generator().manual_seed(seed)) * 0.1


def write(path, waveform, rate, **options):
    soundfile.write(path, waveform.T.numpy(), rate, **options)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_spectrograms_are_upstream_s(name, cases):
    path, _, values = cases[name]
    ours, theirs = load_audio([path])[0], values[f"{name}.melspec"]
    assert ours.shape == (3, 1, 128, 204)
    assert ours.dtype == torch.float32
    if theirs.shape[2] == 64:
        ours = ours[:, :, ::2, ::3]
    error = (ours - theirs).abs().flatten()
    assert error.mean() <= 1e-4
    assert error.quantile(0.999) <= 2e-3
    assert error.max() <= LARGEST.get(name, 2e-2)


@pytest.mark.parametrize("name", NAMES)
def test_resampled_waveforms_are_upstream_s(name, cases):
    path, sound, values = cases[name]
    waveform = torch.from_numpy(soundfile.read(path, dtype="float32", always_2d=True)[0]).T
    ours = resample(waveform, sound["file_rate"])
    assert ours.shape == (sound["channels"], sound["samples_at_16k"])
    assert torch.allclose(ours[:, :2000], values[f"{name}.resampled_head"], rtol=0, atol=2e-5)


def test_a_file_is_what_its_waveform_is(cases):
    for name in ("bird_audio", "stereo_48k"):
        path = cases[name][0]
        values, rate = soundfile.read(path, dtype="float32", always_2d=True)
        waveform = torch.from_numpy(values).T
        before = waveform.clone()
        assert torch.equal(preprocess_audio(waveform, rate), load_audio([path])[0])
        assert torch.equal(waveform, before)  # the means are subtracted from a copy


@pytest.mark.parametrize("rate", [8000, 11025, 16001, 22254, 44100, 96000, 192000])
def test_a_tone_stays_that_tone(rate):
    """Rates that share no divisor with 16 kHz too; away from the ends, where the filter sees silence."""
    seconds = torch.arange(rate, dtype=torch.float64) / rate
    ours = resample(torch.sin(2 * math.pi * 440 * seconds)[None].float(), rate)
    assert ours.shape == (1, 16000)
    expected = torch.sin(2 * math.pi * 440 * torch.arange(16000, dtype=torch.float64) / 16000)
    assert (ours[0, 200:-200] - expected[200:-200]).abs().max() < 5e-3


@settings(max_examples=40)
@given(rate=st.integers(1, 200_000), start=st.integers(0, 999), length=st.integers(1, 999))
@example(rate=1, start=3, length=5)
def test_a_part_is_resampled_as_in_the_whole(rate, start, length):
    waveform = noise(math.ceil(rate * 2000 / 16000), channels=2)
    part = resample(waveform, rate, start, start + length)
    whole = resample(waveform, rate, 0, 2000)
    assert torch.allclose(part, whole[:, start : start + length], rtol=0, atol=1e-6)


def test_energy_of_a_tone_lies_in_its_bin_and_follows_its_loudness():
    """The filter of 1 kHz is where the mel scale says, and four times the amplitude is ln 16 more."""
    tone = 0.1 * torch.sin(2 * math.pi * 1000 * torch.arange(16000) / 16000)
    quiet, loud = filter_bank(tone), filter_bank(4 * tone)
    mels = [1127 * math.log(1 + hertz / 700) for hertz in (20, 1000, 8000)]
    expected = round((mels[1] - mels[0]) / (mels[2] - mels[0]) * 129) - 1
    assert quiet.shape == (98, 128)
    assert set(quiet.argmax(1).tolist()) == {expected}
    assert torch.allclose((loud - quiet)[:, expected], torch.full((98,), math.log(16)), atol=1e-3)


@settings(max_examples=60)
@given(
    num_samples=st.integers(0, 30_000),
    channels=st.integers(1, 12),
    rate=st.sampled_from([100, 8000, 11025, 16000, 44101, 96000]),
    kind=st.sampled_from(["noise", "silence", "nan", "infinite", "huge"]),
)
@example(num_samples=300, channels=1, rate=16000, kind="noise")
@example(num_samples=399, channels=2, rate=16000, kind="noise")
@example(num_samples=400, channels=2, rate=16000, kind="noise")
@example(num_samples=9000, channels=300, rate=96000, kind="noise")
def test_any_sound_is_a_spectrogram_or_an_input_error(num_samples, channels, rate, kind, tmp_path_factory):
    waveform = noise(num_samples, channels) if kind == "noise" else torch.zeros(channels, num_samples)
    broken = {"nan": math.nan, "infinite": math.inf, "huge": 1e30}.get(kind)
    if broken and num_samples:
        waveform[-1, num_samples // 2] = broken  # in the last channel, of which only the mean is heard
    path = write(tmp_path_factory.getbasetemp() / "odd.wav", waveform, rate, subtype="FLOAT")
    length = math.ceil(num_samples * 16000 / rate)
    if length < 400:
        with pytest.raises(InputError, match=re.escape(f"{path}: a sound must last at least 25 ms")):
            load_audio([path])
    elif broken and kind != "huge":
        with pytest.raises(InputError, match=re.escape(f"{path}: the sound holds values that are no num")):
            load_audio([path])
    elif kind != "huge":  # which float32 may or may not hold
        out = load_audio([path])[0]
        frames = (min(length, 32000) - 400) // 160 + 1
        assert torch.isfinite(out).all()
        assert torch.allclose(out[..., frames:], torch.tensor(PADDING))
        assert (out[..., :frames] - SILENCE).abs().max() < 1e-6 or kind == "noise"


def test_only_the_first_channel_is_heard_and_all_set_the_mean():
    first, second = noise(40000), noise(40000, seed=1)
    alone = preprocess_audio(first, 16000)
    both = preprocess_audio(torch.cat((first, second - second.mean())), 16000)
    assert torch.allclose(both, alone, atol=0.05)  # up to the mean
    assert not torch.allclose(preprocess_audio(second, 16000), alone, atol=0.05)
    shifted = preprocess_audio(torch.cat((first, second + 0.5)), 16000)
    assert not torch.equal(shifted, both)


def test_a_sound_that_was_read_is_not_changed_by_its_format(tmp_path):
    waveform = (resample(noise(20000), 4000)[:, :70000] * 32768).short()  # nothing that MP3 would take away
    wav = load_audio([write(tmp_path / "a.wav", waveform, 16000)])[0]
    assert torch.equal(wav, preprocess_audio(waveform / 32768, 16000))
    assert torch.equal(wav, load_audio([write(tmp_path / "a.flac", waveform, 16000)])[0])
    for name in ("a.mp3", "a.ogg"):
        lossy = load_audio([write(tmp_path / name, waveform, 16000)])[0]
        assert (wav - lossy)[:, :, :60].abs().median() < 0.05


@pytest.mark.parametrize(("name", "rate"), [("long.wav", 44100), ("long.flac", 8001), ("long.mp3", 48000)])
def test_of_a_long_sound_only_the_clips_are_read(name, rate, tmp_path, monkeypatch):
    path = write(tmp_path / name, noise(40 * rate, channels=2), rate)
    values = torch.from_numpy(soundfile.read(path, dtype="float32", always_2d=True)[0]).T
    expected = preprocess_audio(values, rate)
    lengths = []

    class Counting(soundfile.SoundFile):
        def read(self, *arguments, **options):
            values = super().read(*arguments, **options)
            lengths.append(len(values))
            return values

    monkeypatch.setattr(soundfile, "SoundFile", Counting)
    assert torch.allclose(load_audio([path])[0], expected, atol=5e-3)
    assert sum(lengths) < 16 * rate


def test_several_sounds_are_a_batch_in_their_order(cases):
    paths = [cases[name][0] for name in ("silence_16k", "mono_8k")]
    batch = load_audio(paths)
    assert batch.shape == (2, 3, 1, 128, 204)
    assert torch.equal(batch[1], load_audio(paths[1:])[0])
    assert load_audio([]).shape == (0, 3, 1, 128, 204)


@pytest.mark.parametrize("name", ["cut.wav", "cut.mp3", "cut.flac", "cut.ogg"])
def test_a_sound_cut_short_is_what_is_left_of_it_or_named(name, tmp_path):
    whole = noise(16000 * 12)
    path = write(tmp_path / name, whole, 16000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if name == "cut.flac":
        with pytest.raises(InputError, match=f"the sound {re.escape(str(path))} cannot be read"):
            load_audio([path])
    elif name == "cut.mp3":
        with pytest.warns(UserWarning, match=rf"{re.escape(str(path))} is cut short: the \d+ samples in it"):
            cut = load_audio([path])
        left = torch.from_numpy(soundfile.read(path, dtype="float32", always_2d=True)[0]).T
        assert torch.allclose(cut[0], preprocess_audio(left, 16000), atol=5e-3)
    else:
        assert torch.isfinite(load_audio([path])).all()


def test_what_is_no_sound_is_named(tmp_path):
    (tmp_path / "text.wav").write_text("no sound at all")
    (tmp_path / "empty.mp3").touch()
    (tmp_path / "headerless.raw").write_bytes(bytes(5000))
    for path in (*tmp_path.iterdir(), tmp_path):
        with pytest.raises(InputError, match=f"the sound {re.escape(str(path))} cannot be read"):
            load_audio([path])
    with pytest.raises(InputError, match=r"there is no sound .*absent\.wav: correct the path"):
        load_audio([tmp_path / "absent.wav"])


@settings(max_examples=100)
@given(data=st.data(), name=st.sampled_from(["a.wav", "a.flac", "a.ogg", "a.aiff"]))
def test_damaged_bytes_are_a_sound_or_an_input_error(data, name, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / f"damaged_{name}"
    content = bytearray(write(path, noise(8000, channels=2), 16000).read_bytes())
    for _ in range(data.draw(st.integers(1, 12))):
        content[data.draw(st.integers(0, min(len(content), 500) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        assert torch.isfinite(load_audio([path])).all()
    except InputError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize(
    ("shape", "rate", "message"),
    [
        ((16000,), 16000, r"must be \[channels, samples\], not \[16000\]"),
        ((0, 16000), 16000, r"must be \[channels, samples\], not \[0, 16000\]"),
        ((1, 16000), 0, "rate must lie between 1 and 1000000 Hz, and it is 0"),
        ((1, 16000), 2_000_000, "and it is 2000000"),
        ((1, 0), 16000, r"at least 25 ms, and this one lasts 0\.0 ms"),
        ((2, 1197), 48000, r"at least 25 ms, and this one lasts 24\.9 ms"),
    ],
)
def test_an_unusable_waveform_gets_its_sentence(shape, rate, message):
    with pytest.raises(InputError, match=message):
        preprocess_audio(torch.zeros(shape), rate)


def test_soundfile_is_needed_only_for_files(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    assert preprocess_audio(noise(16000), 16000).shape == (3, 1, 128, 204)
    with pytest.raises(InputError, match=r"pip install malmm\[audio\]"):
        load_audio([tmp_path / "a.wav"])
    code = "import sys, extraction.preprocess.audio; sys.exit('soundfile' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
