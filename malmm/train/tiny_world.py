"""A large mini world in memory, as tensors, to train the embedded default on."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import torch
from rich.progress import track
from torch import Tensor

from extraction.preprocess.image import MEAN, STD, resize_and_crop
from malmm.data.mini import COLORS, PLACES, SHAPES, SIZES, Scene, draw, make_world_item

NONE = -100  # cross-entropy's ignored target


@dataclass
class World:
    """N scenes with their dialogues; text 0 is the caption, 1 to 10 the questions.

    pictures: uint8 [N, 3, S, S]; cells: int64 [N, 9, 3] shape, color and size on each place, 0 for none;
    texts: the distinct strings, of which text_ids [N, 11] are indices; words: float [texts, W] which words
    and pairs of neighbouring words a text holds; answers: the distinct answers, answer_ids [N, 10];
    referent: [N, 10, 3] shape, color and place of the object that an answer is about (NONE: no single one);
    depends_on: [N, 10] the round a question refers back to, -1 for a direct one.
    """

    pictures: Tensor
    cells: Tensor
    texts: list[str]
    text_ids: Tensor
    words: Tensor
    answers: list[str]
    answer_ids: Tensor
    referent: Tensor
    depends_on: Tensor


def make_world(dialogues: int, seed: int, image_size: int, num_words: int = 300) -> World:
    """Generate a world; with another seed than that of `data mini` the two share no random stream."""
    pictures, cells, talks, referents = [], [], [], []
    for index in track(range(dialogues), description="mini world", transient=True):
        _, scene, talk = make_world_item("train", index, seed=seed)
        pictures.append(_pixels(scene, image_size))
        cells.append(_cells(scene))
        talks.append(talk)
        referents.append([_referent(scene, question.referent) for question in talk.rounds])
    rows = [[talk.caption, *(question.question for question in talk.rounds)] for talk in talks]
    texts = sorted({text for row in rows for text in row})
    text_index = {text: i for i, text in enumerate(texts)}
    answers = sorted({question.answer for talk in talks for question in talk.rounds})
    answer_index = {answer: i for i, answer in enumerate(answers)}
    return World(
        pictures=torch.stack(pictures),
        cells=torch.tensor(cells),
        texts=texts,
        text_ids=torch.tensor([[text_index[text] for text in row] for row in rows]),
        words=_words(texts, rows, num_words),
        answers=answers,
        answer_ids=torch.tensor([[answer_index[q.answer] for q in talk.rounds] for talk in talks]),
        referent=torch.tensor(referents),
        depends_on=torch.tensor([[q.depends_on for q in talk.rounds] for talk in talks]),
    )


def normalise(pictures: Tensor) -> Tensor:
    """uint8 [B, 3, S, S] -> float32, as `extraction.preprocess.image` gives them."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (pictures / 255 - mean) / std


def _pixels(scene: Scene, size: int) -> Tensor:
    image = resize_and_crop(draw(scene), size)
    return (
        torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(size, size, 3).permute(2, 0, 1)
    )


def _cells(scene: Scene) -> list[list[int]]:
    grid = [[0, 0, 0] for _ in PLACES]
    for thing in scene.objects:
        grid[thing.place] = [thing.shape + 1, thing.color + 1, thing.size + 1]
    return grid


def _referent(scene: Scene, index: int) -> list[int]:
    if index < 0:
        return [NONE] * 3
    thing = scene.objects[index]
    return [thing.shape, thing.color, thing.place]


def _words(texts: list[str], rows: list[list[str]], num_words: int) -> Tensor:
    """Which of the most frequent words and neighbouring pairs each text holds: [texts, W]."""
    features = {text: _features(text) for text in texts}
    counts = Counter(feature for row in rows for text in row for feature in features[text])
    known = {feature: i for i, (feature, _) in enumerate(counts.most_common(num_words))}
    words = torch.zeros(len(texts), len(known))
    for i, text in enumerate(texts):
        words[i, [known[feature] for feature in features[text] if feature in known]] = 1
    return words


def _features(text: str) -> set[str]:
    words = text.split()
    return {*words, *(" ".join(pair) for pair in pairwise(words))}


CELL_CLASSES = (len(SHAPES) + 1, len(COLORS) + 1, len(SIZES) + 1)
REFERENT_CLASSES = (len(SHAPES), len(COLORS), len(PLACES))
