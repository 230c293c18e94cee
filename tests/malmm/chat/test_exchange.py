"""Export and import: what comes back is what was there, and what is damaged or foreign does no harm."""

import base64
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malmm.chat.exchange import LINES, export_memories
from malmm.chat.exchange_import import import_memories
from malmm.errors import InputError
from malmm.memory.record import Draft, Media, Record
from malmm.memory.store import MemoryStore, open_store

ENCODER = {"name": "imagebind", "weights_sha256": "ab" * 32}
WIDTH = 8


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    """A store with memories of two users: texts, a copied picture, a sound that is gone."""
    rng = np.random.default_rng(0)
    (tmp_path / "a.png").write_bytes(b"a picture")

    def vector() -> Any:
        return rng.standard_normal(WIDTH).astype(np.float32)

    picture = Media(str(tmp_path / "a.png"), sha256(b"a picture"), copied=True)
    gone = Media("/gone/b.wav", sha256(b"gone"))
    drafts = [
        Draft("me", "two shapes", vector(), "vision", "user", "one", 0, picture, 100.25, 0.5),
        Draft("me", 'line\nbreak, "quotes", \u2028 and 猫', vector(), created=200.5, pinned=True),
        Draft("me", "", vector(), "audio", "user", "two", 1, gone, 300.0),
        Draft("me", "yes", vector(), role="assistant", created=0.1, size=3, access_count=7, accessed=9.5),
        Draft("you", "not mine", vector()),
    ]  # fmt: skip
    with open_store(str(tmp_path / "memory.db"), WIDTH, ENCODER) as opened:
        opened.add(drafts)
        (tmp_path / "a.png").unlink()  # the store has its copy
        yield opened


@pytest.fixture
def other(tmp_path: Path) -> Iterator[MemoryStore]:
    with open_store(str(tmp_path / "other" / "memory.db"), WIDTH, ENCODER) as opened:
        yield opened


def records(store: MemoryStore, user: str = "me") -> list[tuple[Record, bytes]]:
    """Everything of the records but their ids; arrays are compared by their bytes."""
    found = store.records(user, newest_first=False)
    return [
        (replace(record, id=0, user="", embedding=None), record.embedding.tobytes())  # type: ignore[arg-type]
        for record in found
    ]


@pytest.mark.parametrize("name", ["out", "out.zip"])
def test_there_and_back(store: MemoryStore, other: MemoryStore, tmp_path: Path, name: str) -> None:
    assert export_memories(store, ENCODER, "me", tmp_path / name) == 4
    assert import_memories(other, ENCODER, "you.again", tmp_path / name) == 4
    assert records(other, "you.again") == records(store)
    assert list(other.users()) == ["you.again"]
    (picture,) = [record for record in other.records("you.again") if record.modality == "vision"]
    assert other.media_file(picture.media).read_bytes() == b"a picture"  # type: ignore[union-attr, arg-type]
    assert b"not mine" not in b"".join(path.read_bytes() for path in tmp_path.glob("out/*.jsonl"))
    assert (tmp_path / name).stat().st_mode & 0o077 == 0


def test_nothing_to_export(store: MemoryStore, other: MemoryStore, tmp_path: Path) -> None:
    assert export_memories(store, ENCODER, "nobody", tmp_path / "out") == 0
    assert import_memories(other, ENCODER, "me", tmp_path / "out") == 0


def test_an_export_replaces_nothing(store: MemoryStore, tmp_path: Path) -> None:
    (tmp_path / "mine.zip").write_text("mine")
    with pytest.raises(InputError, match="already"):
        export_memories(store, ENCODER, "me", tmp_path / "mine.zip")
    assert (tmp_path / "mine.zip").read_text() == "mine"
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        export_memories(store, ENCODER, "me", tmp_path / "file" / "out")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def change(line: int, **values: Any) -> Callable[[Path], None]:
    """Values of a line of an export's memories, replaced."""

    def act(folder: Path) -> None:
        lines = (folder / LINES).read_bytes().decode().split("\n")
        lines[line - 1] = json.dumps({**json.loads(lines[line - 1]), **values})
        (folder / LINES).write_text("\n".join(lines))

    return act


def change_media(**values: Any) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        lines = (folder / LINES).read_bytes().decode().split("\n")
        number = next(i for i, line in enumerate(lines) if '"a picture"' in line or '"vision"' in line)
        memory = json.loads(lines[number])
        memory["media"] |= values
        lines[number] = json.dumps(memory)
        (folder / LINES).write_text("\n".join(lines))

    return act


def write(data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / LINES).write_bytes(data) and None


def cut(folder: Path) -> None:
    data = (folder / LINES).read_bytes()
    (folder / LINES).write_bytes(data[: len(data) * 2 // 3])


def drop_last(folder: Path) -> None:
    lines = (folder / LINES).read_bytes().splitlines(keepends=True)
    (folder / LINES).write_bytes(b"".join(lines[:-1]))


def other_picture(folder: Path) -> None:
    next((folder / "media").iterdir()).write_bytes(b"another")


SHORT = base64.b64encode(np.ones(3, "<f4").tobytes()).decode()
NAN = base64.b64encode(np.full(WIDTH, np.nan, "<f4").tobytes()).decode()
DAMAGES = {
    "cut": (cut, "line 4: it is no JSON"),
    "shorter": (drop_last, "ends after line 4, though line 1 says that 4 memories"),
    "no text": (write(b"\xff\xfe\x00"), "line 1: it is damaged"),
    "empty": (write(b""), "line 1: it is no JSON"),
    "deep": (write(b"[" * 100_000), "line 1: it is no JSON"),
    "a list": (write(b"[1]\n"), "line 1: it holds no memory"),
    "something else": (write(b'{"a": 1}\n'), "line 1: this is no export"),
    "version": (change(1, version=2), "line 1: its version is 2"),
    "encoder": (change(1, encoder={"name": "other"}), "line 1: its embeddings are of another encoder"),
    "unknown key": (change(3, tekst="a"), "line 3: unknown key tekst"),
    "type": (change(3, text=1), "line 3: text is 1"),
    "modality": (change(3, modality="smell"), "line 3: 'smell'"),
    "role": (change(3, role="system"), "line 3: 'vision' from 'system'"),
    "saliency": (change(3, saliency=7.0), "line 3: .* outside its range"),
    "time": (change(3, created=float("nan")), "line 3: .* outside its range"),
    "count": (change(3, access_count=-1), "line 3: .* outside its range"),
    "no base64": (change(3, embedding="!"), "line 3: its embedding is no base64"),
    "short": (change(3, embedding=SHORT), "line 3: its embedding is not 8 numbers"),
    "nan": (change(3, embedding=NAN), "line 3: its embedding is not 8 numbers"),
    "other picture": (other_picture, "line [2-5]: media/.* holds other bytes"),
    "no picture": (lambda folder: shutil.rmtree(folder / "media"), "line [2-5]: media/.* is missing"),
    "traversal": (change_media(file="../secret"), "line [2-5]: '../secret' is no name of a file"),
    "traversal below": (change_media(file="media/../../secret"), "is no name of a file"),
    "absolute": (change_media(file="/etc/passwd"), "is no name of a file"),
    "sha256": (change_media(sha256="../../x"), "is no sha256"),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "folder") for name in DAMAGES),
        *((name, "zip") for name in ("cut", "no picture", "traversal")),
    ],
)
def test_a_damaged_export_is_refused_whole(
    store: MemoryStore, other: MemoryStore, tmp_path: Path, name: str, kind: str
) -> None:
    damage, sentence = DAMAGES[name]
    folder = tmp_path / "out"
    (tmp_path / "secret").write_bytes(b"a picture")  # of the right bytes, outside
    export_memories(store, ENCODER, "me", folder)
    damage(folder)
    path = folder
    if kind == "zip":
        path = Path(shutil.make_archive(str(tmp_path / "out"), "zip", folder))
    with pytest.raises(InputError, match=sentence) as caught:
        import_memories(other, ENCODER, "me", path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert other.count() == 0
    assert not list((tmp_path / "other").rglob("*.png"))


def test_links_lead_nowhere(store: MemoryStore, other: MemoryStore, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    (tmp_path / "secret").write_bytes(b"a picture")
    export_memories(store, ENCODER, "me", folder)
    (picture,) = (folder / "media").iterdir()
    picture.unlink()
    picture.symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="is missing from the export"):
        import_memories(other, ENCODER, "me", folder)
    picture.unlink()
    (folder / "media").rmdir()
    (folder / "media").symlink_to(tmp_path)
    with pytest.raises(InputError, match="leads out of it"):
        import_memories(other, ENCODER, "me", folder)
    assert other.count() == 0


def test_a_damaged_zip(store: MemoryStore, other: MemoryStore, tmp_path: Path) -> None:
    path = tmp_path / "out.zip"
    export_memories(store, ENCODER, "me", path)
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], b"", b"PK", os.urandom(500)):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"is no \.zip"):
            import_memories(other, ENCODER, "me", path)
    rng = np.random.default_rng(1)
    for _ in range(40):  # one byte anywhere: refused in a sentence, or of no consequence
        damaged = bytearray(whole)
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            import_memories(other, ENCODER, "me", path)
        except InputError:
            assert other.count() == 0
        else:
            assert records(other) == records(store)
            other.delete("me", [record.id for record in other.records("me")])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "")
    with pytest.raises(InputError, match=r"holds no memories\.jsonl"):
        import_memories(other, ENCODER, "me", path)
    with pytest.raises(InputError, match=r"there is no .*nowhere"):
        import_memories(other, ENCODER, "me", tmp_path / "nowhere")
