"""From a configuration and a checkpoint to a conversation that can begin."""

import json
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from extraction.encoder import Encoder
from extraction.settings import load_settings
from malmm.chat.reader import CausalReader
from malmm.chat.remembering import MemorySession
from malmm.chat.session import ChatSession
from malmm.config import load_model, load_stored_task, parse_options, resolve_path
from malmm.errors import InputError
from malmm.memory.settings import MemorySettings
from malmm.memory.store import MemoryStore
from malmm.models.checkpoint import load_checkpoint, restore
from malmm.models.dialogue import DialogueConfig, DialogueModel

EMBEDDED = "configs/models/dialogue_tiny.yaml"


def load_session(
    config: Path | str | None = None,
    checkpoint: Path | str | None = None,
    llm_model_path: str | None = None,
    options: Sequence[str] = (),
) -> ChatSession:
    """Load encoder and dialogue model into one process.

    checkpoint: a `checkpoint_*.pth` of training or a folder of `save_pretrained`; without one the layers are
    those that the configuration names. config: a file of configs/models; without one the checkpoint's own, or
    the embedded default. llm_model_path replaces `model.language.path`; options are `model.a.b value` words.
    Raises InputError with one sentence for whatever is missing or does not fit.
    """
    saved: dict[str, Any] = {}
    if checkpoint is not None and not Path(checkpoint).is_dir():
        saved = load_checkpoint(checkpoint)
    mapping = _model_section(config, checkpoint, saved, options)
    if llm_model_path:
        mapping["language"] = {**mapping["language"], "path": llm_model_path}
    encoder = _encoder(mapping)
    if saved.get("encoder") not in (None, encoder.identity()):
        raise InputError(
            f"the checkpoint {checkpoint} was trained on embeddings of another encoder than "
            f"{mapping['encoder']} has: set model.encoder to the extraction configuration that made its store"
        )
    model = DialogueModel.from_config(mapping)
    if saved:
        restore(model, saved, str(checkpoint))
    return ChatSession(model, encoder, model.config.default_caption)


def load_memory_session(
    session: ChatSession,
    store: MemoryStore,
    settings: MemorySettings,
    user: str = "me",
    conversation: str | None = None,
    reader: CausalReader | None = None,
) -> MemorySession:
    """The conversation of a user that keeps what it hears in `store`, with model and encoder of `session`.

    reader: of `load_reader`.
    """
    return MemorySession(
        session.model,
        session.encoder,
        store,
        user,
        conversation,
        settings,
        session.default_caption,
        reader=reader,
    )


def load_reader(settings: MemorySettings) -> CausalReader | None:
    """The language model that `memory.reflection.reader` names; None: the dialogue model's own is to read."""
    reflection = settings.reflection
    if reflection.reader is None:
        return None
    return CausalReader.load(reflection.reader, reflection.reader_precision)


def default_store() -> str:
    """The store that is used where none is named: a file in the person's folder of data."""
    folder = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return str(Path(folder, "malmm", "memory.db").expanduser())


def split_options(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of --options -> those of `memory.` keys and all others; a key may be joined to its value."""
    memory: list[str] = []
    other: list[str] = []
    rest = iter(words)
    for word in rest:
        mine = memory if word.startswith("memory.") else other
        mine += [word] if "=" in word else [word, *islice(rest, 1)]
    return memory, other


def _model_section(
    config: Path | str | None, checkpoint: Path | str | None, saved: dict[str, Any], options: Sequence[str]
) -> dict[str, Any]:
    folder = Path(checkpoint) if checkpoint is not None and not saved else None
    if config is not None or checkpoint is None:
        mapping = load_model(config or EMBEDDED, DialogueConfig, options)
    else:
        own = (
            saved["config"]["model"] if saved else {"arch": "dialogue", **_read_pretrained(Path(checkpoint))}
        )
        if other := next((name for name in parse_options(options) if name != "model"), None):
            raise InputError(f"--options: '{other}' is no section of the chat: its keys begin with model.")
        mapping = load_stored_task({"model": own}, options, {"dialogue": DialogueConfig}, checkpoint).model
    return mapping if folder is None else {**mapping, "pretrained": str(folder)}


def _read_pretrained(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"there is no {path}: name a folder made by save_pretrained, or a .pth file"
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: make the folder again with save_pretrained") from error


def _encoder(mapping: dict[str, Any]) -> Encoder:
    name = mapping.get("encoder")
    if not name:
        raise InputError(
            "model.encoder names no extraction configuration: the chat needs the encoder that made the "
            "embeddings, so set it to a file of configs/extraction"
        )
    return Encoder.from_config(load_settings(resolve_path(name)).encoder)
