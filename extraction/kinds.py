"""The kinds of items that a store of files holds, told by a file's suffix."""

from pathlib import Path

SUFFIXES = {
    "vision": (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    "video": (".mp4", ".mov", ".mkv", ".webm"),
    "audio": (".wav", ".flac", ".mp3"),
    "text": (".txt",),
}
KINDS = tuple(SUFFIXES)
TOWERS = {"vision": "vision", "video": "vision", "audio": "audio", "text": "text"}  # that encode a kind
KIND_OF_SUFFIX = {suffix: kind for kind, suffixes in SUFFIXES.items() for suffix in suffixes}


def kind_of(path: str | Path) -> str | None:
    """The kind of items in a file, None for a file of no known kind."""
    return KIND_OF_SUFFIX.get(Path(path).suffix.lower())
