"""The mini world's scenes: what they hold, and that the picture shows it."""

import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from malmm.data.mini_scene import COLORS, RGB, SHAPES, SIZES, Scene, SceneObject, draw, make_scene


def _distance(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return sum(abs(a - b) for a, b in zip(one, other, strict=True))


def _painted(picture: Image.Image, background: tuple[int, int, int]) -> list[tuple[int, int]]:
    pixels = picture.load()
    return [(x, y) for x in range(128) for y in range(128) if _distance(pixels[x, y], background) > 30]


@settings(deadline=None)
@given(st.integers())
def test_scene_is_as_described(seed: int) -> None:
    scene = make_scene(random.Random(seed))
    places = [thing.place for thing in scene.objects]
    assert 2 <= len(places) == len(set(places)) <= 4
    assert min(scene.background) > 215
    assert scene == make_scene(random.Random(seed))


def test_shapes_and_colors_are_unique_in_some_scenes_and_repeated_in_others() -> None:
    scenes = [make_scene(random.Random(seed)).objects for seed in range(300)]
    for attribute in ("shape", "color", "size"):
        repeated = sum(len({getattr(t, attribute) for t in things}) < len(things) for things in scenes)
        assert 60 < repeated < 290
    assert {len(things) for things in scenes} == {2, 3, 4}


@settings(deadline=None)
@given(st.integers())
def test_picture_shows_each_object_in_its_place_and_nothing_else(seed: int) -> None:
    scene = make_scene(random.Random(seed))
    picture = draw(scene)
    assert (picture.size, picture.mode) == ((128, 128), "RGB")
    occupied = set()
    for thing in scene.objects:
        assert picture.getpixel((thing.x, thing.y)) == RGB[COLORS[thing.color]]
        occupied.add(divmod(thing.place, 3))
    assert {(y * 3 // 128, x * 3 // 128) for x, y in _painted(picture, scene.background)} == occupied


def test_jpeg_keeps_the_colors_apart() -> None:
    for seed in range(30):
        scene = make_scene(random.Random(seed))
        file = io.BytesIO()
        draw(scene).save(file, "JPEG", quality=92)
        picture = Image.open(file).convert("RGB")
        for thing in scene.objects:
            seen = picture.getpixel((thing.x, thing.y))
            assert min(RGB, key=lambda name: _distance(RGB[name], seen)) == COLORS[thing.color]


def test_shapes_differ_and_large_is_larger() -> None:
    masks = {}
    for shape in range(len(SHAPES)):
        for size in range(len(SIZES)):
            scene = Scene((SceneObject(shape, 0, size, 4, 64, 64),), (240, 240, 240))
            masks[shape, size] = set(_painted(draw(scene), scene.background))
        assert len(masks[shape, 1]) > 2.5 * len(masks[shape, 0])
    for shape in range(len(SHAPES)):
        for other in range(shape):
            assert len(masks[shape, 1] ^ masks[other, 1]) > 80


@pytest.mark.parametrize(("direction", "expected"), [("left", 1), ("right", -1), ("above", 2), ("below", -1)])
def test_neighbor_is_the_nearest_in_the_row_or_column(direction: str, expected: int) -> None:
    # Places 0 1 2 / 3 4 5 / 6 7 8; the object asked about lies at the bottom right.
    things = [SceneObject(0, 0, 0, place, 0, 0) for place in (8, 7, 2, 6)]
    assert Scene(tuple(things), (240, 240, 240)).neighbor(0, direction) == expected


def test_neighbor_looks_past_an_empty_place() -> None:
    things = [SceneObject(0, 0, 0, place, 0, 0) for place in (0, 2, 4)]
    assert Scene(tuple(things), (240, 240, 240)).neighbor(0, "right") == 1
