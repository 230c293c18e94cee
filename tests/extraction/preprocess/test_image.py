"""Pictures against upstream's values, odd sizes, damaged files."""

import hashlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from extraction.errors import InputError
from extraction.preprocess.image import load_image, load_images, preprocess_image, resize_and_crop

NAMES = [
    *(
        "dog_image",
        "car_image",
        "bird_image",
        "cmyk",
        "exif_rot6",
        "gray",
        "gray16",
        "h224_w343",
        "h341_w224",
    ),
    *("la", "palette_transparent", "rgba", "tiny_3x5", "wide_1x200"),
]


@pytest.fixture(scope="module")
def cases(shared):
    folder = shared / "parity/imagebind"
    images = json.loads((folder / "image_preprocess.json").read_text())["images"]
    assert sorted(images) == sorted(NAMES)
    values = load_file(folder / "image_preprocess.safetensors")
    return {name: (shared / image["where"] / image["file"], image, values) for name, image in images.items()}


@pytest.mark.parametrize("name", NAMES)
def test_resized_and_cropped_pixels_are_upstream_s(name, cases):
    path, image, values = cases[name]
    theirs = values[f"{name}.u8"].numpy()
    ours = np.asarray(resize_and_crop(load_image(path), 224))
    assert hashlib.sha256(theirs.tobytes()).hexdigest() == image["sha256_u8"]
    if path.suffix == ".png":
        assert np.array_equal(ours, theirs)
    else:  # decoders of JPEG differ in the last bits
        assert (np.abs(ours.astype(int) - theirs) <= 3).mean() >= 0.999


@pytest.mark.parametrize("name", NAMES)
def test_normalised_values_are_upstream_s(name, cases):
    path, image, values = cases[name]
    exact = preprocess_image(Image.fromarray(values[f"{name}.u8"].numpy()))
    assert exact.shape == (3, 224, 224)
    assert exact.dtype == torch.float32
    assert torch.allclose(exact[:, 2::16, 3::16], values[f"{name}.sample"], rtol=0, atol=1e-6)
    from_file = load_images([path])[0]
    assert torch.allclose(from_file.mean((1, 2)), torch.tensor(image["mean"]), atol=1e-3)
    assert torch.allclose(from_file.std((1, 2)), torch.tensor(image["std"]), atol=1e-3)
    if path.suffix == ".png":
        assert torch.equal(from_file, exact)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 130),
    height=st.integers(1, 130),
    size=st.integers(1, 64),
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"]),
)
def test_any_picture_fills_the_square(width, height, size, mode):
    """A picture of one colour stays that colour, whatever its format and size."""
    image = Image.new(mode, (width, height), 0)
    out = preprocess_image(image, size)
    assert out.shape == (3, size, size)
    assert out.is_contiguous()
    expected = preprocess_image(Image.new("RGB", (size, size), image.convert("RGB").getpixel((0, 0))), size)
    assert torch.equal(out, expected)


@settings(max_examples=60, deadline=None)
@given(short=st.integers(1, 90), extra=st.integers(0, 90), size=st.integers(2, 64), upright=st.booleans())
def test_the_crop_is_the_centre(short, extra, size, upright):
    """A ramp along the longer side is cropped so that its middle comes to lie in the middle."""
    long = short + extra
    ramp = np.tile(np.linspace(0, 255, long).round().astype(np.uint8), (short, 1))
    image = Image.fromarray(ramp.T if upright else ramp)
    square = np.asarray(resize_and_crop(image.convert("RGB"), size), dtype=float)[..., 0]
    profile = square.mean(axis=1 if upright else 0)
    one_pixel = 255 / max(1, int(size * long / short) - 1)
    if long > 8:
        assert math.isclose(profile.mean(), 127.5, abs_tol=one_pixel + 255 / long)


def test_exif_orientation_is_followed_only_when_asked_for(cases):
    path, _, _ = cases["exif_rot6"]
    assert load_image(path).size == (320, 200)
    assert load_image(path, upright=True).size == (200, 320)


def test_transparency_is_dropped_unless_a_background_is_named(tmp_path):
    Image.new("RGBA", (4, 4), (200, 10, 10, 0)).save(tmp_path / "clear.png")
    assert load_image(tmp_path / "clear.png").getpixel((1, 1)) == (200, 10, 10)
    assert load_image(tmp_path / "clear.png", background="white").getpixel((1, 1)) == (255, 255, 255)


def test_no_pictures_are_an_empty_batch():
    assert load_images([], size=32).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.9, 0.99])
@pytest.mark.parametrize("name", ["dog_image", "h224_w343", "wide_1x200"])
def test_a_truncated_picture_is_named(share, name, cases, tmp_path):
    whole = cases[name][0]
    path = tmp_path / f"cut{whole.suffix}"
    data = whole.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match=f"the picture {re.escape(str(path))} cannot be read"):
        load_images([whole, path])


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_bytes_are_a_picture_or_an_input_error(data, cases, tmp_path_factory):
    whole = cases[data.draw(st.sampled_from(["exif_rot6", "rgba", "palette_transparent", "gray16"]))][0]
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 12))):
        content[data.draw(st.integers(0, min(len(content), 2000) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    try:
        assert load_image(path).mode == "RGB"
    except InputError as error:
        assert str(path) in str(error)


def test_what_is_no_picture_is_named(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    for path in (tmp_path / "text.jpg", tmp_path):
        with pytest.raises(InputError, match=f"the picture {re.escape(str(path))} cannot be read"):
            load_image(path)
    with pytest.raises(InputError, match=r"there is no picture .*absent\.jpg"):
        load_image(tmp_path / "absent.jpg")


def test_a_picture_too_thin_to_be_scaled_is_refused_with_its_name(tmp_path):
    path = Path(tmp_path / "thin.png")
    Image.new("L", (1, 501)).save(path)
    with pytest.raises(InputError, match=r"thin\.png: the picture of 1 x 501 pixels is too thin"):
        load_images([path])


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    Image.new("L", (8, 8)).save(tmp_path / "bomb.png")
    with pytest.raises(InputError, match=r"bomb\.png cannot be read"):
        load_image(tmp_path / "bomb.png")
