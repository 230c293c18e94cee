"""What is found in files and folders, and that it does not fill the memory."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extraction.catalogue import Catalogue
from extraction.errors import InputError
from extraction.kinds import KINDS
from extraction.scan import LONGEST_LINE, check_paths, scan

PROJECT = Path(__file__).resolve().parents[2]
Row = tuple[str, int | None, str, str | None]


def scanned(paths: Iterable[Path], folder: Path, kinds: Iterable[str] = KINDS) -> tuple[list[Row], int]:
    """The items as (source, line, kind, text), and the number of other files."""
    with Catalogue(folder / "scan.tmp") as catalogue:
        others = scan(list(paths), list(kinds), catalogue, lambda: None)
        rows = [(r["source"], r["line"], r["modality"], r.get("text")) for r in catalogue.items()]
        assert len(rows) == catalogue.num_items
    assert not (folder / "scan.tmp").exists()
    return rows, others


def test_folders_are_searched_and_files_taken_once(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("b/x.png", "b/c/y.WAV", "b/.hidden/z.png", "a.mp4", ".dot.png", "b/c/note.md", "b/d.txt"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("one line")
    rows, others = scanned([tree, tree / "a.mp4", tree / "b", tree / "b/.hidden/z.png"], tmp_path)
    assert rows == [
        (f"{tree}/a.mp4", None, "video", None),
        (f"{tree}/b/.hidden/z.png", None, "vision", None),  # because it was named
        (f"{tree}/b/c/y.WAV", None, "audio", None),
        (f"{tree}/b/d.txt", 1, "text", "one line"),
        (f"{tree}/b/x.png", None, "vision", None),
    ]
    assert others == 2  # note.md, in both folders that hold it
    rows, others = scanned([tree], tmp_path, ["audio"])
    assert [kind for _, _, kind, _ in rows] == ["audio"] and others == 4


def test_the_current_folder_is_not_part_of_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree/b").mkdir(parents=True)
    (tmp_path / "tree/b/x.png").touch()
    monkeypatch.chdir(tmp_path / "tree")
    assert scanned([Path()], tmp_path)[0] == [("b/x.png", None, "vision", None)]
    assert scanned([Path("./b/")], tmp_path)[0] == [("b/x.png", None, "vision", None)]


def test_links_are_followed_but_not_round_and_round(tmp_path: Path) -> None:
    (tmp_path / "tree/a").mkdir(parents=True)
    (tmp_path / "tree/a/x.png").touch()
    (tmp_path / "tree/a/up").symlink_to(tmp_path / "tree", target_is_directory=True)
    (tmp_path / "tree/b").symlink_to(tmp_path / "tree/a", target_is_directory=True)
    (tmp_path / "tree/self.png").symlink_to("self.png")
    (tmp_path / "tree/gone.wav").symlink_to("nowhere")
    os.mkfifo(tmp_path / "tree/pipe.txt")  # reading it would wait for ever
    names = [row[0].removeprefix(f"{tmp_path}/tree/") for row in scanned([tmp_path / "tree"], tmp_path)[0]]
    assert names == ["a/x.png", "b/x.png", "gone.wav", "self.png"]


def test_what_cannot_be_taken_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "file.py").touch()
    for name, message in (
        ("absent", "there is no file or folder"),
        ("file.py", "is of no known kind"),
        ("pipe.txt", "is of no known kind"),
    ):
        with pytest.raises(InputError, match=message):
            check_paths([tmp_path, tmp_path / name])


@given(st.lists(st.binary(max_size=8) | st.sampled_from([b"", b"two words", b"\xff", b"\t ", "é".encode()])))
def test_lines_are_read_as_a_text_editor_shows_them(tmp_path_factory, lines: list[bytes]) -> None:
    content = b"\n".join(lines)
    folder = tmp_path_factory.mktemp("lines")
    (folder / "a.txt").write_bytes(content)
    wanted = []
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError:
            text = None
        if text != "":
            wanted.append((str(folder / "a.txt"), number, "text", text))
    assert scanned([folder / "a.txt"], folder)[0] == wanted


@pytest.mark.parametrize("more", [-1, 0, 1, 2, LONGEST_LINE, 3 * LONGEST_LINE])
@pytest.mark.parametrize("end", [b"", b"\n", b"\nlast"])
def test_a_line_is_taken_up_to_its_longest(tmp_path: Path, more: int, end: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(b"first\n" + b"x" * (LONGEST_LINE + more) + end)
    with Catalogue(tmp_path / "scan.tmp") as catalogue:
        scan([tmp_path / "a.txt"], KINDS, catalogue, lambda: None)
        lines = [row["line"] for row in catalogue.items()]
        failed = [row["line"] for row in catalogue.failed()]
    assert lines == ([1, 2, 3] if end == b"\nlast" else [1, 2])
    assert failed == ([2] if more > 0 else [])


def test_equal_contents_share_a_place_within_their_kind(tmp_path: Path) -> None:
    for name in ("1.png", "2.png", "4.wav"):
        (tmp_path / name).write_text("same")
    (tmp_path / "3.png").write_text("other")
    (tmp_path / "5.txt").write_text("same\nother\nsame")
    with Catalogue(tmp_path / "scan.tmp") as catalogue:
        scan([tmp_path], KINDS, catalogue, lambda: None)
        assert catalogue.counts == {"vision": 2, "video": 0, "audio": 1, "text": 2}
        pictures = catalogue.contents("vision", range(9))
        assert [(c.place, c.source) for c in pictures] == [(0, f"{tmp_path}/1.png"), (1, f"{tmp_path}/3.png")]
        assert pictures[0].digest == hashlib.sha256(b"same").digest()
        assert [c.text for c in catalogue.contents("text", range(1, 2))] == ["other"]
        catalogue.set_fault("vision", 0, "why")
        assert [row["source"] for row in catalogue.failed()] == [f"{tmp_path}/1.png", f"{tmp_path}/2.png"]
        assert catalogue.num_failed == 2
        catalogue.set_fault("vision", 0, None)
        assert list(catalogue.failed()) == []


MEASURED = """
import sys
from pathlib import Path
from extraction.catalogue import Catalogue
from extraction.kinds import KINDS
from extraction.scan import scan
folder = Path(sys.argv[1])
with Catalogue(folder / "scan.tmp") as catalogue:
    scan([folder], KINDS, catalogue, lambda: None)
    count = sum(1 for _ in catalogue.items())
    for start in range(0, catalogue.counts["text"], 1000):
        catalogue.contents("text", range(start, start + 1000))
(most,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(count, int(most.split()[1]) // 1024)
"""


def test_memory_does_not_grow_with_the_number_of_items(tmp_path: Path) -> None:
    used = []
    for lines, pictures in ((20_000, 300), (200_000, 3_000)):
        folder = tmp_path / str(lines)
        folder.mkdir()
        (folder / "a.txt").write_text("".join(f"this is line number {i} of many\n" for i in range(lines)))
        for i in range(pictures):
            (folder / f"a picture with a rather long name {i:09d}.png").write_text(str(i))
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, folder],
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr
        count, megabytes = map(int, done.stdout.split())
        assert count == lines + pictures
        used.append(megabytes)
    assert used[1] - used[0] < 10, used  # megabytes; the items alone are 30
