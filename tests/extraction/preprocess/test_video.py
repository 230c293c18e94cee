"""Films against upstream's values, and the frames that were really used of films made here."""

import json
import math
import re
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from extraction.errors import InputError
from extraction.preprocess.frames import read_index
from extraction.preprocess.video import clip_frames, load_videos, preprocess_frame, resize

av = pytest.importorskip("av", reason="PyAV is absent: pip install malmm[video]")

TRANSFORMS = ["landscape_car", "portrait_dog", "square", "upscale_150x301"]


def write_film(path, pictures, rate=25):
    """A film that keeps every pixel of its pictures, uint8 [height, width, 3] each."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "rgb24"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def random_pictures(num, height, width, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (num, height, width, 3), dtype=np.uint8))


def views(pictures, clips, size=224):
    """The views of a film, from its pictures and the numbers of each clip's frames."""
    frames = [
        [preprocess_frame(torch.from_numpy(pictures[number]), size) for number in clip] for clip in clips
    ]
    return torch.cat([torch.stack(clip, dim=2) for clip in frames])


@pytest.fixture(scope="module")
def sampling(shared):
    content = json.loads((shared / "parity/imagebind/video_sampling.json").read_text())
    assert sorted(content["transform"]) == TRANSFORMS
    assert len(content["rows"]) == 22
    return content


def test_clips_and_frames_are_upstream_s(sampling):
    for row in sampling["rows"]:
        clips = clip_frames(row["fps"], row["frames"])
        assert [list(clip) for clip in clips] == row["frame_indices"], row
        assert [last - first + 1 for first, last in clips] == row["frames_in_clip"]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transformed_frames_are_upstream_s(name, sampling, shared):
    def picture(path):
        return torch.from_numpy(np.array(Image.open(shared / path).convert("RGB")))

    ramp = picture("parity/imagebind/images/h224_w343.png")
    car, dog = (picture(f"real/imagebind/{animal}_image.jpg") for animal in ("car", "dog"))
    first, last = {
        "landscape_car": (car, car.flip(1)),
        "portrait_dog": (dog, dog.flip(1)),
        "square": (ramp[:200, :200], ramp[10:210, 10:210]),
        "upscale_150x301": (ramp[:150, :301], ramp[40:190, 20:321]),
    }[name]
    expected = sampling["transform"][name]
    assert list(first.shape[:2]) == expected["frame_hw"]
    ours = torch.stack((preprocess_frame(first), preprocess_frame(last)), dim=2)
    theirs = load_file(shared / "parity/imagebind/video_transform.safetensors")[name]
    assert ours.shape == (3, 3, 2, 224, 224)
    assert torch.allclose(ours[..., 1::5, 2::5], theirs, rtol=0, atol=1e-5)
    assert torch.allclose(ours.mean((1, 2, 3, 4)), torch.tensor(expected["mean_per_crop"]), atol=1e-5)
    assert bool((ours[0] == ours[2]).all()) == expected["crops_equal"]


@settings(max_examples=60)
@given(old=st.tuples(*[st.integers(1, 90)] * 2), new=st.tuples(*[st.integers(1, 90)] * 2))
def test_resizing_is_torch_s_bilinear(old, new):
    pixels = torch.from_numpy(random_pictures(1, *old)[0])
    image = pixels.permute(2, 0, 1)[None].double()
    expected = torch.nn.functional.interpolate(image, new, mode="bilinear", align_corners=False)
    assert torch.allclose(resize(pixels, *new).permute(2, 0, 1).double(), expected[0], atol=5e-3)


@settings(max_examples=60)
@given(height=st.integers(1, 150), width=st.integers(1, 150), size=st.integers(1, 40))
def test_any_frame_gives_three_crops(height, width, size):
    """A frame of one colour stays that colour, and the crops are start, centre and end of the longer side."""
    flat = preprocess_frame(torch.full((height, width, 3), 77, dtype=torch.uint8), size)
    expected = preprocess_frame(torch.full((size, size, 3), 77, dtype=torch.uint8), size)
    assert flat.shape == (3, 3, size, size)
    assert torch.allclose(flat, expected, atol=1e-5)
    ramp = torch.from_numpy(random_pictures(1, height, width)[0])
    start, _, end = preprocess_frame(ramp, size)
    if height == width:
        assert torch.equal(start, end)
    back = preprocess_frame(ramp.flip(0 if height > width else 1), size)
    assert torch.allclose(back[0].flip(1 if height > width else 2), end, atol=1e-4)


@given(rate=st.floats(0.01, 240), count=st.integers(1, 50_000))
def test_any_film_has_five_clips_within_it(rate, count):
    clips = clip_frames(rate, count)
    assert len(clips) == 5
    assert clips == sorted(clips)
    assert all(0 <= first <= last < count for first, last in clips)
    assert clips[0][0] == 0
    assert clips[-1][1] == count - 1


@settings(max_examples=25)
@given(
    num=st.integers(1, 60),
    height=st.integers(1, 120),
    width=st.integers(1, 120),
    rate=st.sampled_from([Fraction(1, 4), 1, Fraction(25, 2), Fraction(24000, 1001), 30]),
)
def test_a_film_is_read_frame_by_frame_as_it_was_written(num, height, width, rate, tmp_path_factory):
    pictures = random_pictures(num, height, width)
    path = write_film(tmp_path_factory.getbasetemp() / "odd.mov", pictures, rate)
    index = read_index(path)
    assert index.num_frames == num
    assert math.isclose(index.rate, rate, rel_tol=1e-3)
    expected = views(pictures, clip_frames(index.rate, num), size=28)
    assert torch.equal(load_videos([path], size=28)[0], expected)


@pytest.mark.parametrize("name", ["one.mov", "one.mp4", "one.gif", "one.png"])
def test_a_film_of_one_frame_shows_it_throughout(name, tmp_path):
    path = tmp_path / name
    picture = random_pictures(1, 31, 97)[0]
    if name == "one.mov":
        write_film(path, [picture])
    elif name == "one.mp4":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 96, 32, "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture[:, :96], format="rgb24")))
            container.mux(stream.encode(None))
    else:
        Image.fromarray(picture).save(path)
    film = load_videos([path])
    assert film.shape == (1, 15, 3, 2, 224, 224)
    assert film.dtype == torch.float32
    assert torch.equal(film, film[:, :3, :, :1].repeat(1, 5, 1, 2, 1, 1))
    if name in ("one.mov", "one.png"):
        assert torch.equal(film[0], views([picture], [(0, 0)] * 5))


def test_a_real_film_gives_the_frames_of_a_plain_decoding(shared):
    path = shared / "real/video/cooking_70s.mp4"
    clips = clip_frames(24.0, 1687)
    wanted = {number for clip in clips for number in clip}
    with av.open(str(path)) as container:
        decoded = enumerate(container.decode(video=0))
        pictures = {number: frame.to_ndarray(format="rgb24") for number, frame in decoded if number in wanted}
    assert number_of_frames(path) == 1687
    assert torch.equal(load_videos([path])[0], views(pictures, clips))


def number_of_frames(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_several_films_are_a_batch_in_their_order(tmp_path):
    paths = [write_film(tmp_path / f"{n}.mov", random_pictures(3, 20, 30, seed=n)) for n in range(3)]
    batch = load_videos(paths, size=28)
    assert batch.shape == (3, 15, 3, 2, 28, 28)
    assert torch.equal(batch[2], load_videos(paths[2:], size=28)[0])
    assert load_videos([]).shape == (0, 15, 3, 2, 224, 224)


def test_a_film_too_thin_to_be_scaled_is_refused_with_its_name(tmp_path):
    path = write_film(tmp_path / "thin.mov", random_pictures(1, 1, 501))
    with pytest.raises(InputError, match=rf"{re.escape(str(path))}: the frame of 501 x 1 pixels is too thin"):
        load_videos([path])


def test_pyav_is_needed_only_for_files(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    assert preprocess_frame(torch.zeros(4, 6, 3, dtype=torch.uint8)).shape == (3, 3, 224, 224)
    with pytest.raises(InputError, match=r"pip install malmm\[video\]"):
        load_videos([tmp_path / "a.mp4"])
    code = "import sys, extraction.preprocess.video; sys.exit('av' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
