"""VisDial v1.0: its annotation files, its picture folders, and what of them stage 1 has to encode.

Format: https://visualdial.org/data - `{"version", "split", "data": {"questions": [str], "answers": [str],
"dialogs": [{"image_id", "caption", "dialog": [{"question", "answer", "answer_options", "gt_index"}]}]}}`,
where questions and answers are indices into the two lists. Train and val have ten rounds; in test the last
round has no answer.
"""

import gzip
import hashlib
import json
import os
import re
import zlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from extraction.errors import InputError

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


@dataclass(frozen=True)
class VisDial:
    """One annotation file. `dialogs` are its records as they stand, `answer_options` as `array("i")`."""

    split: str
    questions: list[str]
    answers: list[str]
    dialogs: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.dialogs)

    def image_id(self, i: int) -> int:
        """Return the image id of dialog `i`."""
        return self.dialogs[i]["image_id"]

    def caption(self, i: int) -> str:
        """Return the caption of dialog `i`, its turn 0."""
        return self.dialogs[i]["caption"]

    def dialog_questions(self, i: int) -> list[str]:
        """Return the questions of dialog `i`, turns 1 to T-1."""
        return [self.questions[turn["question"]] for turn in self.dialogs[i]["dialog"]]

    def dialog_answers(self, i: int) -> list[str | None]:
        """Return the answers of dialog `i`, one for each question; None where the split hides it."""
        rows = (turn.get("answer") for turn in self.dialogs[i]["dialog"])
        return [None if row is None else self.answers[row] for row in rows]

    def texts(self, i: int) -> list[str]:
        """Return what a model reads of dialog `i`: the caption, then the questions."""
        return [self.caption(i), *self.dialog_questions(i)]


def read_visdial(path: str | Path, answer_options: bool = True) -> VisDial:
    """Read a VisDial v1.0 annotation file, `.json` or `.json.gz`.

    `answer_options=False` leaves out the 100 candidates of each round, which are nearly all of the train
    file: the 123,287 dialogs then take half a gigabyte less memory.

    Raises InputError for a file that is absent, damaged, or not in the format.
    """
    path = Path(path)

    def keep(record: dict[str, Any]) -> dict[str, Any]:
        # While parsing: 123 million candidates as Python integers would take 4 GB.
        options = record.pop("answer_options", None)
        if options is not None and answer_options:
            record["answer_options"] = array("i", options)
        return record

    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8") as file:
            content = json.load(file, object_hook=keep)
    except OSError as error:
        if isinstance(error, gzip.BadGzipFile):
            raise InputError(f"{path} is not a gzip file: download it again") from error
        reason = error.strerror or str(error)
        raise InputError(f"the VisDial annotations {path} cannot be read: {reason}") from error
    except (EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged or cut short ({error}): download it again") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is not valid JSON (line {error.lineno}: {error.msg}): download it again"
        ) from error
    except (TypeError, OverflowError) as error:
        raise InputError(
            f"{path} is not in the VisDial v1.0 format: answer_options must be lists of indices"
        ) from error
    return _checked(path, content)


def _checked(path: Path, content: Any) -> VisDial:
    def wrong(what: str) -> NoReturn:
        raise InputError(f"{path} is not in the VisDial v1.0 format: {what}")

    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, dict):
        wrong("it has no `data` section")
    for key in ("questions", "answers", "dialogs"):
        if not isinstance(data.get(key), list):
            wrong(f"data.{key} is not a list")
    for key in ("questions", "answers"):
        if not all(isinstance(text, str) for text in data[key]):
            wrong(f"data.{key} holds something that is not a string")
    for i, dialog in enumerate(data["dialogs"]):
        where = f"data.dialogs[{i}]"
        if not isinstance(dialog, dict) or type(dialog.get("image_id")) is not int:
            wrong(f"{where} has no whole number as image_id")
        if not isinstance(dialog.get("caption"), str) or not isinstance(dialog.get("dialog"), list):
            wrong(f"{where} lacks a caption or a list `dialog`")
        for r, turn in enumerate(dialog["dialog"]):
            if not isinstance(turn, dict) or "question" not in turn:
                wrong(f"{where}.dialog[{r}] has no question")
            for key in ("question", "answer"):
                row, entries = turn.get(key), len(data[f"{key}s"])
                hidden = key == "answer" and row is None
                if not hidden and (type(row) is not int or not 0 <= row < entries):
                    wrong(
                        f"{where}.dialog[{r}].{key} is {row!r}, not an index into "
                        f"data.{key}s ({entries} entries)"
                    )
    return VisDial(str(content.get("split", "")), data["questions"], data["answers"], data["dialogs"])


def find_images(folders: Iterable[str | Path]) -> dict[int, Path]:
    """Find the pictures below `folders` by image id, the digits that end COCO's and VisualDialog's names.

    `COCO_train2014_000000000009.jpg` is picture 9. Where two files have one id the first folder wins, then
    the first name. Raises InputError for a folder that does not exist.
    """
    found: dict[int, Path] = {}
    for folder in folders:
        if not Path(folder).is_dir():
            raise InputError(
                f"there is no image folder {folder}: put the pictures there or "
                "name another in the configuration"
            )
        for path in _files_below(str(folder)):
            digits = re.search(r"(\d+)$", path.stem)
            if digits and path.suffix.lower() in PICTURE_SUFFIXES:
                found.setdefault(int(digits[1]), path)
    return found


def _files_below(folder: str) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(names))


@dataclass(frozen=True)
class Plan:
    """What a split needs encoded, in the fixed order that makes its shards the same in every run.

    `image_ids`: the distinct pictures, ascending. `texts`: the distinct captions and questions, shortest
    first. `dialog_ids` int64 [D]: the image id of each dialog. `dialog_texts` int64 [D, T]: rows of `texts`,
    caption first, -1 behind a shorter dialog's last. `digest`: sha256 of all that was read here.
    """

    image_ids: list[int]
    texts: list[str]
    dialog_ids: Tensor
    dialog_texts: Tensor
    digest: str


def plan(annotations: VisDial, name: str | Path) -> Plan:
    """List the pictures and texts of `annotations`, equal texts once; errors call the file `name`.

    Raises InputError where there is no dialog, or a picture has two (a store holds one dialog for each
    picture).
    """
    ids = [annotations.image_id(i) for i in range(len(annotations))]
    if not ids:
        raise InputError(f"{name} holds no dialogs: there is nothing to encode")
    if len(set(ids)) != len(ids):
        seen: set[int] = set()
        twice = next(i for i in ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
        raise InputError(
            f"{name} has two dialogs about image {twice}: an embedding store holds one for each picture"
        )
    distinct = {text for i in range(len(ids)) for text in annotations.texts(i)}
    # By length: neighbours share a shard, so a batch of them has little padding.
    texts = sorted(distinct, key=lambda text: (len(text), text))
    row_of = {text: row for row, text in enumerate(texts)}
    digest = hashlib.sha256()
    turns = 1 + max(len(dialog["dialog"]) for dialog in annotations.dialogs)
    dialog_texts = torch.full((len(ids), turns), -1, dtype=torch.int64)
    for i, image_id in enumerate(ids):
        spoken = annotations.texts(i)
        dialog_texts[i, : len(spoken)] = torch.tensor([row_of[text] for text in spoken])
        digest.update(json.dumps([image_id, *spoken]).encode() + b"\n")
    return Plan(sorted(ids), texts, torch.tensor(ids), dialog_texts, digest.hexdigest())
