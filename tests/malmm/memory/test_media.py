"""Copies of media beside a store."""

import hashlib
from pathlib import Path

import pytest

from malmm.errors import InputError
from malmm.memory.media import MediaFolder, copy_name
from malmm.memory.record import Media


def media(path: Path, content: bytes) -> Media:
    path.write_bytes(content)
    return Media(str(path), hashlib.sha256(content).hexdigest(), copied=True)


def files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_a_copy_lies_under_its_hash_and_equal_bytes_lie_there_once(tmp_path: Path):
    folder = MediaFolder(tmp_path / "m.db.media")
    one, other = media(tmp_path / "a.PNG", b"x" * 3_000_000), media(tmp_path / "b.png", b"x" * 3_000_000)
    folder.keep(one)
    folder.keep(other)
    name = hashlib.sha256(b"x" * 3_000_000).hexdigest() + ".png"
    assert files(folder.folder) == [f"{name[:2]}/{name}"]
    assert folder.file(copy_name(one)).read_bytes() == b"x" * 3_000_000
    folder.discard(name)
    assert not folder.folder.exists()
    folder.discard(name)  # what is gone already is no error


@pytest.mark.parametrize("suffix", ["", ".", ".tar gz", ".p\u00fcng", "." + "x" * 40, ".a:b"])
def test_only_a_plain_suffix_becomes_part_of_a_name(suffix: str):
    assert copy_name(Media(f"/pictures/cup{suffix}", "ab" * 32)) == "ab" * 32


@pytest.mark.parametrize("sha256", ["", "../../etc/passwd", "AB" * 32, "ab" * 31])
def test_what_is_no_hash_never_becomes_a_path(tmp_path: Path, sha256: str):
    source = tmp_path / "a.png"
    source.write_bytes(b"x")
    with pytest.raises(InputError, match="64 hexadecimal digits"):
        MediaFolder(tmp_path / "copies").keep(Media(str(source), sha256))
    assert files(tmp_path) == ["a.png"]


def test_a_file_that_has_changed_leaves_no_copy(tmp_path: Path):
    shown = media(tmp_path / "a.png", b"before")
    Path(shown.path).write_bytes(b"after")
    with pytest.raises(InputError, match=r"a\.png has changed"):
        MediaFolder(tmp_path / "copies").keep(shown)
    assert files(tmp_path) == ["a.png"]


def test_a_copy_that_a_kill_cut_short_is_made_anew_or_discarded(tmp_path: Path):
    shown = media(tmp_path / "a.png", b"whole")
    folder = MediaFolder(tmp_path / "copies")
    target = folder.file(copy_name(shown))
    target.parent.mkdir(parents=True)
    half = target.with_name(target.name + ".tmp")
    half.write_bytes(b"wh")
    folder.keep(shown)
    assert target.read_bytes() == b"whole" and not half.exists()
    half.write_bytes(b"wh")
    folder.discard(target.name)
    assert files(folder.folder.parent) == ["a.png"]
