"""The mini world: generated pictures and dialogues in the exact file format of VisDial v1.0."""

from malmm.data.mini_dialogue import Dialogue, Round, make_dialogue
from malmm.data.mini_scene import COLORS, PLACES, SHAPES, SIZES, Scene, SceneObject, draw, make_scene

__all__ = [
    "COLORS", "PLACES", "SHAPES", "SIZES",
    "Dialogue", "Round", "Scene", "SceneObject", "draw", "make_dialogue", "make_scene",
]  # fmt: skip
