"""Sounds as ImageBind takes them: three clips of two seconds, each a log mel spectrogram at 16 kHz."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from extraction.errors import InputError
from extraction.preprocess.clips import clip_times

SAMPLE_RATE = 16000
NUM_CLIPS = 3
MEL_BINS = 128
NUM_FRAMES = 204  # of which a clip of two seconds fills 198
MEAN, STD = -4.268, 9.138
WINDOW, HOP, FFT_SIZE = 400, 160, 512  # samples: 25 ms, every 10 ms
PRE_EMPHASIS = 0.97
LOWEST_FREQUENCY = 20.0
FLOOR = 1.1920928955078125e-07  # float32's epsilon, as Kaldi has it
# The resampling filter: a sinc cut below the lower of both Nyquist frequencies, six zero crossings each side.
ZERO_CROSSINGS, ROLLOFF = 6, 0.99
MAX_RATE = 1_000_000  # Hz; a header that says more is damaged, and its filter would fill the memory
BLOCK = 1 << 20  # values worked on at a time

Read = Callable[[int, int], Tensor]


def load_audio(paths: Sequence[str | Path]) -> Tensor:
    """Sound files (WAV, FLAC, MP3, Ogg...) -> float32 [n, 3 clips, 1, 128 mels, 204 frames].

    Only the clips are read, so that memory does not grow with a sound's length. A file cut short counts as
    what can be read of it, with a warning that names it. Raises InputError naming the first unusable file.
    """
    sounds = torch.empty(len(paths), NUM_CLIPS, 1, MEL_BINS, NUM_FRAMES)
    for sound, path in zip(sounds, paths, strict=True):
        sound[:] = _load(path)
    return sounds


def preprocess_audio(waveform: Tensor, rate: int) -> Tensor:
    """A waveform in [-1, 1], [channels, samples] at `rate` Hz -> float32 [3 clips, 1, 128 mels, 204 frames].

    As upstream: only the first channel is heard. Raises InputError for a sound that is shorter than 25 ms or
    that holds values which are no numbers.
    """
    if waveform.ndim != 2 or not waveform.shape[0]:
        raise InputError(f"a waveform must be [channels, samples], not {list(waveform.shape)}")
    waveform = waveform.float().cpu()
    return _spectrograms(lambda start, stop: waveform[:, start:stop], waveform.shape[1], rate)


def resample(waveform: Tensor, rate: int, start: int = 0, stop: int | None = None) -> Tensor:
    """[channels, samples] at `rate` Hz -> the samples `start` to `stop` of it at 16 kHz, [channels, n].

    The values of `torchaudio.functional.resample` with its defaults (a kernel computed in float32). Each
    sample is a sum over the few values near it, so that a part costs no more than its length, and a rate
    that shares no divisor with 16 kHz no more than another.
    """
    divisor = math.gcd(rate, SAMPLE_RATE)
    old, new = rate // divisor, SAMPLE_RATE // divisor
    stop = _resampled_length(waveform.shape[1], rate) if stop is None else stop
    if old == new:
        return waveform[:, start:stop].clone()
    kernel = _kernel(old, new)
    taps = kernel.shape[1]
    padded = F.pad(waveform, (taps // 2 - 1, taps // 2))
    windows = padded.unfold(1, taps, 1)  # [channels, samples, taps], a view
    outputs = torch.arange(start, stop).split(max(1, BLOCK // (taps * waveform.shape[0])))
    parts = [(windows[:, rows * old // new] * kernel[rows % new]).sum(-1) for rows in outputs]
    return torch.cat(parts, 1)


def filter_bank(waveform: Tensor) -> Tensor:
    """Kaldi's log mel energies of one channel at 16 kHz: [samples] -> [whole frames, 128].

    Source: torchaudio.compliance.kaldi.fbank with a symmetric Hann window and no dither.
    """
    frames = waveform.unfold(0, WINDOW, HOP)
    frames = frames - frames.mean(1, keepdim=True)
    before = torch.cat((frames[:, :1], frames[:, :-1]), 1)
    window = torch.hann_window(WINDOW, periodic=False)
    spectrum = torch.fft.rfft((frames - PRE_EMPHASIS * before) * window, FFT_SIZE)
    return (spectrum.abs().square() @ _mel_filters()).clamp(min=FLOOR).log()


def _load(path: str | Path) -> Tensor:
    soundfile = _soundfile()
    if not Path(path).exists():
        raise InputError(f"there is no sound {path}: correct the path")
    try:
        with soundfile.SoundFile(str(path)) as file:
            return _spectrograms(partial(_read, file), _num_samples(file), file.samplerate)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (soundfile.SoundFileError, OSError, TypeError, ValueError) as error:  # the last two: odd headers
        raise InputError(f"the sound {path} cannot be read: replace or remove it ({error})") from error


def _read(file: Any, start: int, stop: int) -> Tensor:
    """The samples `start` to `stop` of an open file, [channels, stop - start]."""
    file.seek(start)
    values = file.read(stop - start, dtype="float32", always_2d=True)
    if len(values) < stop - start:
        raise InputError("the sound is damaged: replace or remove it")
    return torch.from_numpy(values).T


def _num_samples(file: Any) -> int:
    """How many samples can be read: what the header says, or else, where the last is not there, a count."""
    promised: int = file.frames
    try:
        file.seek(max(promised - 1, 0))
        if len(file.read(1)) == min(promised, 1):
            return promised
    except (_soundfile().SoundFileError, ValueError):
        pass  # an MP3 whose end is missing cannot go there, or comes out beyond it
    file.seek(0)
    present = sum(_block_lengths(file))
    warnings.warn(f"{file.name} is cut short: the {present} samples in it stand for it", stacklevel=2)
    return present


def _block_lengths(file: Any) -> Iterator[int]:
    while length := len(file.read(max(1, BLOCK // file.channels), dtype="float32")):
        yield length


def _spectrograms(read: Read, num_samples: int, rate: int) -> Tensor:
    """The three clips [3, 1, 128, 204] of a sound of which `read(start, stop)` gives [channels, samples].

    Upstream subtracts the mean of all channels in place: where clips overlap, a later one hears the earlier
    ones' subtractions, and the published weights' numbers were made so.
    """
    if not 1 <= rate <= MAX_RATE:
        raise InputError(f"the sampling rate must lie between 1 and {MAX_RATE} Hz, and it is {rate}")
    length = _resampled_length(num_samples, rate)
    bounds = _clip_bounds(length)
    if length == 0 or bounds[0][1] < WINDOW:
        milliseconds = 1000 * num_samples / rate
        raise InputError(f"a sound must last at least 25 ms, and this one lasts {milliseconds:.1f} ms")
    overlapping = bounds[1][0] < bounds[0][1]
    whole = _read_resampled(read, num_samples, rate, 0, length) if overlapping else None
    spectrograms = []
    for start, stop in bounds:
        if whole is not None:
            clip = whole[:, start:stop]
        else:
            clip = _read_resampled(read, num_samples, rate, start, stop)
        clip -= clip.mean()
        spectrograms.append(_padded(filter_bank(clip[0])))
    result = (torch.stack(spectrograms)[:, None] - MEAN) / STD
    if not torch.isfinite(result).all():
        raise InputError("the sound holds values that are no numbers or far too large: replace or remove it")
    return result


def _read_resampled(read: Read, num_samples: int, rate: int, start: int, stop: int) -> Tensor:
    """The samples `start` to `stop` at 16 kHz, [channels, stop - start].

    What is read starts at a whole second, where samples of both rates coincide, and ends beyond what the
    filter reaches.
    """
    margin = 1 + ZERO_CROSSINGS // rate  # seconds
    first = max(0, start // SAMPLE_RATE - margin)
    last = stop // SAMPLE_RATE + 1 + margin
    waveform = read(first * rate, min(last * rate, num_samples))
    return resample(waveform, rate, start - first * SAMPLE_RATE, stop - first * SAMPLE_RATE)


def _resampled_length(num_samples: int, rate: int) -> int:
    return -(-num_samples * SAMPLE_RATE // rate)


def _clip_bounds(length: int) -> list[tuple[int, int]]:
    """First sample and end of each clip of a sound of `length` samples at 16 kHz; exact times, floored."""
    times = clip_times(length / SAMPLE_RATE, NUM_CLIPS)
    return [(int(start * SAMPLE_RATE), min(int(end * SAMPLE_RATE), length)) for start, end in times]


def _padded(log_mels: Tensor) -> Tensor:
    """[frames, 128] -> [128, 204]; zeros behind, as upstream pads the logarithms."""
    return F.pad(log_mels.T, (0, NUM_FRAMES - len(log_mels)))


@lru_cache(maxsize=8)
def _kernel(old: int, new: int) -> Tensor:
    """The resampling filter, one row for each of the `new` positions between input samples: [new, taps].

    Tap k of row j weighs input sample floor(j * old / new) + k - (taps // 2 - 1).
    """
    cutoff = min(old, new) * ROLLOFF
    reach = math.ceil(ZERO_CROSSINGS * old / cutoff)
    rows = torch.arange(new)[:, None]
    samples = rows * old // new + torch.arange(-reach, reach + 2)
    # In float32 and in this order, because upstream's values have the rounding of it.
    time = -rows.float() / new + samples.float() / old
    time = (time * cutoff).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
    window = torch.cos(time * math.pi / ZERO_CROSSINGS / 2) ** 2
    time = time * math.pi
    sinc = torch.where(time == 0, torch.tensor(1.0), time.sin() / time)
    return sinc * (window * (cutoff / old))


@cache
def _mel_filters() -> Tensor:
    """Triangular filters, equally wide in mel between 20 Hz and 8 kHz: [257 FFT bins, 128]."""
    low, high = (1127.0 * math.log(1 + hertz / 700) for hertz in (LOWEST_FREQUENCY, SAMPLE_RATE / 2))
    step = (high - low) / (MEL_BINS + 1)
    left = low + torch.arange(MEL_BINS) * step
    bins = 1127.0 * (1 + SAMPLE_RATE / FFT_SIZE * torch.arange(FFT_SIZE // 2) / 700).log()[:, None]
    rising, falling = (bins - left) / step, (left + 2 * step - bins) / step
    return F.pad(torch.minimum(rising, falling).clamp(min=0), (0, 0, 0, 1))  # the last bin is in no filter


def _soundfile() -> ModuleType:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the package is here and libsndfile is not
        raise InputError(f"reading sounds needs soundfile: pip install malmm[audio] ({error})") from error
    return soundfile
