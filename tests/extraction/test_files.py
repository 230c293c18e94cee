from pathlib import Path

import pytest

from extraction.files import locate, write_atomically


def test_locate_prefers_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, root = tmp_path / "here", tmp_path / "root"
    for folder in (here, root):
        folder.mkdir()
        (folder / "both").touch()
    (root / "only").touch()
    monkeypatch.chdir(here)
    assert locate("both", root).resolve() == here / "both"
    assert locate("only", root) == root / "only"
    assert locate("neither", root) == Path("neither")
    assert locate(here / "absolute", root) == here / "absolute"


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def fail(file) -> None:
        file.write(b"half of the new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
