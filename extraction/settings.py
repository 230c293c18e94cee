"""The YAML file of an extraction: its keys, the values that they may have, and the paths in it."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from extraction.errors import InputError
from extraction.files import PACKAGE_ROOT, locate

ENCODER_DEFAULTS: dict[str, Any] = {
    "backend": "builtin",
    "weights": None,
    "config": "huge",
    "vocabulary": None,
    "dtype": "float32",
    "device": "auto",
}
DEFAULTS: dict[str, Any] = {
    "encoder": ENCODER_DEFAULTS,
    "data": {"prepare": None, "placeholder_images": False, "splits": {}},
    "store": None,
    "batch_size": {"vision": 16, "text": 256},
    "shard_size": 4096,
    "workers": 0,
}
SPLIT_KEYS = ("annotations", "images")


@dataclass(frozen=True)
class Split:
    """One split: its annotation file and the folders of its pictures."""

    annotations: Path
    images: tuple[Path, ...]


@dataclass(frozen=True)
class Settings:
    """One extraction. `encoder` is what `Encoder.from_config` takes; `store` has a folder for each split."""

    encoder: dict[str, Any]
    prepare: str | None
    placeholder_images: bool
    splits: dict[str, Split]
    store: Path
    vision_batch: int
    text_batch: int
    shard_size: int
    workers: int


def refuse_unknown(keys: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise InputError for the first of `keys` that is not known, with the known key nearest to it.

    Keys are dotted paths, so that one that stands in the wrong section is told its right place.
    """
    known = list(known)
    for key in keys:
        if key in known:
            continue
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        last = key.rpartition(".")[2]
        near = [name for name in known if name.rpartition(".")[2] == last] or near
        raise InputError(f"unknown key {key} in {where}: the nearest known key is {near[0]}")


def load_settings(
    config: str | Path, options: Sequence[str] = (), out: str | Path | None = None, backend: str | None = None
) -> Settings:
    """Read an extraction's YAML; `options` are `key value` pairs (or `key=value`) that override it.

    `out` overrides `store`, `backend` overrides `encoder.backend`. Raises InputError, naming file and key,
    for what cannot be used.
    """
    path = locate(config)
    content = _read_yaml(path)
    overrides = _read_options(options)
    for mapping, where in ((content, str(path)), (overrides, "--options")):
        refuse_unknown(_dotted(mapping), _known_keys(mapping), where)
        _refuse_values_for_sections(mapping, DEFAULTS, where)
    extra = {"store": str(out)} if out is not None else {}
    if backend is not None:
        extra["encoder"] = {"backend": backend}  # type: ignore[assignment]
    try:
        merged = OmegaConf.merge(DEFAULTS, content, overrides, extra)
        values = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, TypeError) as error:
        raise InputError(f"{path}: {str(error).splitlines()[0]}") from error
    return _Checked(path, values).settings()  # type: ignore[arg-type]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except OSError as error:
        raise InputError(f"there is no readable configuration {path}: name one with --config") from error
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} does not hold keys and values: see configs/extraction for examples")
    return content  # type: ignore[return-value]


def _read_options(options: Sequence[str]) -> dict[str, Any]:
    rest, pairs = list(options), []
    while rest:
        key = rest.pop(0)
        if "=" not in key:
            if not rest:
                raise InputError(f"--options takes pairs of key and value: {key} has no value")
            key = f"{key}={rest.pop(0)}"
        pairs.append(key)
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist(pairs))  # type: ignore[return-value]
    except (YAMLError, OmegaConfBaseException) as error:
        raise InputError(f"--options {' '.join(options)}: {' '.join(str(error).split())}") from error


def _dotted(mapping: Mapping[Any, Any], prefix: str = "") -> list[str]:
    """List every key of nested mappings as a dotted path, sections too."""
    paths = []
    for key, value in mapping.items():
        paths.append(f"{prefix}{key}")
        if isinstance(value, Mapping):
            paths += _dotted(value, f"{prefix}{key}.")
    return paths


def _known_keys(mapping: Mapping[Any, Any]) -> list[str]:
    """List the keys that there are, given the names of the splits in `mapping`, which a person chooses."""
    data = mapping.get("data")
    splits = data.get("splits") if isinstance(data, Mapping) else None
    names = list(splits) if isinstance(splits, Mapping) else []
    return _dotted(DEFAULTS) + _dotted({name: dict.fromkeys(SPLIT_KEYS) for name in names}, "data.splits.")


def _refuse_values_for_sections(
    mapping: Mapping[Any, Any], defaults: Mapping[str, Any], where: str, prefix: str = ""
) -> None:
    for key, default in defaults.items():
        if not isinstance(default, Mapping) or key not in mapping:
            continue
        if not isinstance(mapping[key], Mapping):
            raise InputError(f"{where}: {prefix}{key} must hold keys of its own, not {mapping[key]!r}")
        _refuse_values_for_sections(mapping[key], default, where, f"{prefix}{key}.")


class _Checked:
    """Turns the merged values into Settings, refusing what is of the wrong type."""

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self.path = path
        self.values = values
        # Relative paths are also looked for in the project that the configuration lies in.
        self.root = next((p for p in path.resolve().parents if (p / "configs").is_dir()), PACKAGE_ROOT)

    def settings(self) -> Settings:
        splits = self.section("data.splits")
        if not splits:
            raise InputError(
                f"{self.path}: data.splits is empty: name at least one split with its annotations"
            )
        prepare = self.value("data.prepare")
        return Settings(
            encoder=self.encoder(),
            prepare=None if prepare is None else self.text("data.prepare"),
            placeholder_images=self.flag("data.placeholder_images"),
            splits={str(name): self.split(str(name)) for name in splits},
            store=Path(self.text("store")).expanduser(),
            vision_batch=self.number("batch_size.vision", 1),
            text_batch=self.number("batch_size.text", 1),
            shard_size=self.number("shard_size", 1),
            workers=self.number("workers", 0),
        )

    def encoder(self) -> dict[str, Any]:
        encoder = dict(self.section("encoder"))
        for key in ("weights", "config", "vocabulary"):
            if encoder[key] is not None and (key, encoder[key]) != ("config", "huge"):
                encoder[key] = str(locate(self.text(f"encoder.{key}"), self.root))
        return encoder

    def split(self, name: str) -> Split:
        key = f"data.splits.{name}"
        images = self.section(key).get("images") or []
        folders = [images] if isinstance(images, str) else images
        if not isinstance(folders, list) or not all(isinstance(folder, str) for folder in folders):
            raise InputError(f"{self.path}: {key}.images must be a list of folders, not {images!r}")
        annotations = locate(self.text(f"{key}.annotations"), self.root)
        return Split(annotations, tuple(locate(folder, self.root) for folder in folders))

    def value(self, key: str) -> Any:
        value: Any = self.values
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def section(self, key: str) -> dict[str, Any]:
        value = self.value(key)
        if not isinstance(value, dict):
            raise InputError(f"{self.path}: {key} must hold keys of its own, not {value!r}")
        return value

    def text(self, key: str) -> str:
        value = self.value(key)
        if not isinstance(value, str) or not value:
            raise InputError(f"{self.path}: {key} must be a text, not {value!r}")
        return value

    def flag(self, key: str) -> bool:
        value = self.value(key)
        if not isinstance(value, bool):
            raise InputError(f"{self.path}: {key} must be true or false, not {value!r}")
        return value

    def number(self, key: str, least: int) -> int:
        value = self.value(key)
        if type(value) is not int or value < least:
            raise InputError(f"{self.path}: {key} must be a whole number of at least {least}, not {value!r}")
        return value
