"""Configuration in LAVIS's manner: YAML sections `model`, `datasets` and `run`, and `--options` over them.

A task file (configs/tasks/*.yaml) names an architecture and a data set; their defaults come from
configs/models/<arch>_<model_type>.yaml and configs/datasets/<name>_<type>.yaml, the task file's own sections
override them, and `--options run.max_epoch 5 run.seed=1` override everything. The dataclasses are the one
schema: a key that they do not know is refused with the nearest that they do, a value of another type too.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from malmm.errors import InputError
from malmm.schema import Section, check

PROJECT = Path(__file__).resolve().parents[1]
LAVIS_CONFIGS = Path("lavis/configs")  # where LAVIS keeps what is in configs/ here


@dataclass
class RunConfig:
    """The `run` section: how to train. The names are LAVIS's where LAVIS has the thing."""

    task: Literal["dialogue", "classification", "vqa", "captioning"] | None = None  # null: what the data are
    output_dir: str = "outputs/finetune_visdial"
    prefix: str = ""  # a folder between output_dir and job, where one is wanted
    job: str = "default"  # everything is written to <output_dir>/<prefix>/<job>/
    train_splits: list[str] = field(default_factory=lambda: ["train"])
    valid_splits: list[str] = field(default_factory=lambda: ["val"])  # the first chooses the best
    test_splits: list[str] = field(default_factory=list)  # scored at the end, with the best checkpoint
    max_epoch: int = 5
    batch_size_train: int = 8  # dialogues or videos that a process computes at once
    batch_size_eval: int = 16
    accum_grad_iters: int = 1  # batches that make one optimizer step
    init_lr: float = 1e-4
    min_lr: float = 0.0
    warmup_lr: float = 1e-8  # where the warm-up starts; negative: at init_lr
    warmup_steps: int = 0  # in optimizer steps; only the first epoch warms up
    lr_sched: Literal["linear_warmup_cosine_lr"] = "linear_warmup_cosine_lr"
    weight_decay: float = 0.05
    seed: int = 42
    amp: bool | str = "no"  # no, bf16 (true means bf16), or on a GPU fp16
    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_workers: int = 0
    num_threads: int = 0  # of a CPU; 0: as many as torch takes. A tiny model is quicker on one
    log_freq: int = 50  # steps between two lines of the log where there is no terminal for a progress bar
    save_every_steps: int = 100  # 0: checkpoint_latest.pth at the end of an epoch only
    valid_dialogues: int = 50  # dialogues of a split that are answered for the exact match; 0: none
    valid_videos: int | None = None  # examples of a split that are answered for its scores; null: all
    num_beams: int = 5  # num_beams to prompt: how videos are answered
    max_len: int | None = None  # tokens of an answer and one more, as MA-LMM counts; null: the data set's
    min_len: int | None = None
    inference_method: Literal["generate"] = "generate"
    prompt: str | None = None  # instead of the data set's
    tensorboard: bool = True
    resume: bool | str = "auto"  # auto: go on where the same command stopped; false: begin anew, overwriting
    resume_ckpt_path: str | None = None
    evaluate: bool = False  # only evaluate valid_splits and test_splits
    distributed: bool | None = None  # distributed, world_size, dist_url: LAVIS's; torchrun decides here
    world_size: int | None = None
    dist_url: str | None = None
    report_metric: bool = True  # this and the next two: MA-LMM's, without effect
    num_ans_candidates: int | None = None
    suffix: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.amp, bool):  # YAML reads a bare `no` as false
            self.amp = "bf16" if self.amp else "no"
        if self.amp not in ("no", "bf16", "fp16"):
            raise InputError(f"run.amp is '{self.amp}': set it to no, bf16 or fp16")
        if self.resume not in ("auto", False):
            raise InputError(f"run.resume is '{self.resume}': set it to auto or false")
        for name in (
            "max_epoch", "batch_size_train", "batch_size_eval", "accum_grad_iters", "log_freq", "num_beams",
        ):  # fmt: skip
            self._at_least(name, 1)
        for name in (
            "min_lr", "warmup_steps", "weight_decay", "num_workers", "num_threads", "save_every_steps",
            "valid_dialogues",
        ):  # fmt: skip
            self._at_least(name, 0)
        for name, least in (("max_len", 2), ("min_len", 1), ("valid_videos", 1)):
            if getattr(self, name) is not None:
                self._at_least(name, least)
        if not (math.isfinite(self.init_lr) and self.init_lr > 0):
            raise InputError(f"run.init_lr is {self.init_lr}: set a number above 0")

    def _at_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if not least <= value < math.inf:
            raise InputError(f"run.{name} is {value}: set at least {least}")


@dataclass
class VisDialConfig:
    """A data set in the VisDial v1.0 format (configs/datasets/visdial_*.yaml)."""

    type: str
    store: str  # folder with one embedding store a split
    annotations: dict[str, str]  # split -> dialogues, .json or .json.gz
    dense: dict[str, str] = field(default_factory=dict)  # split -> dense relevance, where there is one
    human: dict[str, str] = field(default_factory=dict)  # split -> refs_human_*.json; else from dense


LVUTask = Literal["director", "genre", "relationship", "scene", "way_speaking", "writer", "year"]


@dataclass
class VideoDataConfig:
    """A video benchmark, or your own videos (configs/datasets/<name>_*.yaml); its row says the rest."""

    type: str
    annotations: dict[str, str | list[str]]  # split -> its file, or files that are joined
    frames: str | None = None  # folder that holds <video>/frame%06d.jpg, 10 a second
    videos: str | None = None  # folder of films, read directly where `frames` lacks a video
    image_size: int = 224  # pixels of a side of what the model sees
    prompt: str | None = None  # instead of the benchmark's; {} is where the question goes
    missing: Literal["refuse", "skip"] = "refuse"  # records whose video is not at hand
    compat: Literal["upstream"] | None = None  # upstream: with the faults of MA-LMM's own code
    task: LVUTask | None = None  # what LVU asks
    history: int = 100  # seconds of an LVU clip
    stride: int = 20  # seconds from the start of one LVU clip to that of the next

    def __post_init__(self) -> None:
        for name in ("image_size", "history", "stride"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} of a video data set is {getattr(self, name)}: set at least 1")


VIDEO_DATASETS = (
    "lvu", "breakfast", "coin", "msrvtt_qa", "msvd_qa", "activitynet_qa",
    "msrvtt_cap", "msvd_cap", "youcook2_cap", "my_videos",
)  # fmt: skip


@dataclass
class ScienceQAConfig:
    """ScienceQA, or what comes in its format (configs/datasets/scienceqa_*.yaml)."""

    type: str
    problems: str  # problems.json
    splits: str | None = None  # pid_splits.json; null: a problem's own `split`
    images: str | None = None  # holds <split>/<id>/<image>; null: no picture is shown
    captions: str | None = None  # captions.json; null: a problem's own `caption`, where it has one
    use_caption: bool = False  # the caption joins the hint in the Context
    prompt_format: str = "QCM-ALE"  # what is given, and what is asked for: science_prompts.py
    shots: int = 0  # solved examples in front of every question
    shot_split: str = "train"  # where they come from; one that is shown is not asked
    shot_seed: int = 3  # which; the paper's test run with two shots had 3
    compat: Literal["upstream"] | None = None  # upstream: with the faults of the official code

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise InputError(f"datasets.scienceqa.shots is {self.shots}: set at least 0")


DATASETS: dict[str, type] = {
    "visdial": VisDialConfig,
    "scienceqa": ScienceQAConfig,
    **dict.fromkeys(VIDEO_DATASETS, VideoDataConfig),
}


# Names that MA-LMM's configurations have for what has another one here.
ARCH_ALIASES = {"blip2_vicuna_instruct_malmm": "blip2_vicuna_instruct"}


@dataclass
class TaskConfig:
    """A merged, resolved and checked task; paths stand in it as they were written (see `resolve_path`)."""

    model: dict[str, Any]
    datasets: dict[str, Any]  # name -> its dataclass of DATASETS
    run: RunConfig

    def to_dict(self) -> dict[str, Any]:
        """Plain values: what a checkpoint keeps."""
        return dataclasses.asdict(self)


def resolve_path(path: str | PathLike[str]) -> Path:
    """Where `path` is: from the current directory, else from the project's root; unchanged if in neither.

    `lavis/configs/...` also means `configs/...`.
    """
    path = Path(path).expanduser()
    candidates = [path, PROJECT / path]
    if path.is_relative_to(LAVIS_CONFIGS):
        own = Path("configs") / path.relative_to(LAVIS_CONFIGS)
        candidates += [own, PROJECT / own]
    return next((candidate for candidate in candidates if candidate.exists()), path)


def load_task(path: str | PathLike[str], options: Sequence[str], models: Mapping[str, type]) -> TaskConfig:
    """Read a task file, its defaults and the words of `--options`; `models` gives each arch its dataclass.

    Raises InputError naming file and key for a missing file, an unknown key, a wrong type or an odd option.
    """
    task, chosen = read_yaml(path), parse_options(options)
    asked = _merge(task, chosen)
    model = _section(asked, "model", path)
    arch = ARCH_ALIASES.get(str(model.get("arch")), str(model.get("arch")))
    if arch not in models:
        raise InputError(f"{path}: model.arch is '{arch}', known are: {_nearest_first(arch, models)}")
    sources = [_default(path, "models", "model", arch, "model_type", model)]
    for name, values in _section(asked, "datasets", path).items():
        if name in DATASETS:
            sources.append(_default(path, "datasets", f"datasets.{name}", name, "type", values))
    sources += [(str(path), task), ("--options", chosen)]
    values = combine(sources, _task_keys(models[arch]), str(path))
    return _task({**values, "model": {**values["model"], "arch": arch}})


def load_stored_task(
    stored: Mapping[str, Any],
    options: Sequence[str],
    models: Mapping[str, type],
    path: str | PathLike[str],
    llm_model_path: str | None = None,
) -> TaskConfig:
    """What a checkpoint at `path` keeps as its configuration, with `--options` and a language model over it.

    llm_model_path: folder of the language model, instead of the checkpoint's own. Sections may be absent, as
    they are of a model alone. Raises InputError naming file and key for what does not fit, and for an arch
    that `models` does not have.
    """
    source = f"the configuration in {path}"
    arch = str((stored.get("model") or {}).get("arch"))
    if arch not in models:
        known = _nearest_first(arch, models)
        raise InputError(f"{path} is of another model: its model.arch is '{arch}', known here are: {known}")
    language = {"model": {"language": {"path": llm_model_path}}} if llm_model_path else {}
    sources = [(source, dict(stored)), ("--options", parse_options(options)), ("--llm_model_path", language)]
    return _task(combine(sources, _task_keys(models[arch]), source))


def load_model(path: str | PathLike[str], schema: type, options: Sequence[str] = ()) -> dict[str, Any]:
    """The checked `model` section of configs/models/*.yaml with `--options model.a.b value` over it."""
    sources = [(str(path), read_yaml(path)), ("--options", parse_options(options))]
    values = combine(sources, Section({"model": _model_keys(schema)}), str(path))
    return _section(values, "model", path)


def load_dataset(name: str, path: str | PathLike[str] | None = None, options: Sequence[str] = ()) -> Any:
    """The dataclass of data set `name` from configs/datasets/*.yaml, by default `<name>_default.yaml`.

    `options` are the words of `--options datasets.<name>.key value` over it. Raises InputError for an unknown
    name or key.
    """
    if name not in DATASETS:
        raise InputError(f"there is no data set '{name}', known are: {_nearest_first(name, DATASETS)}")
    path = path or f"configs/datasets/{name}_default.yaml"
    sources = [(str(path), read_yaml(path)), ("--options", parse_options(options))]
    values = combine(sources, Section({"datasets": Section({name: DATASETS[name]})}), str(path))
    return DATASETS[name](**_section(_section(values, "datasets", path), name, path))


def _task_keys(schema: type) -> Section:
    return Section({"model": _model_keys(schema), "datasets": Section(DATASETS), "run": RunConfig})


def _task(values: Mapping[str, Any]) -> TaskConfig:
    return TaskConfig(
        model=values["model"],
        datasets={name: DATASETS[name](**keys) for name, keys in values.get("datasets", {}).items()},
        run=RunConfig(**values.get("run", {})),
    )


def _model_keys(schema: type) -> Section:
    return Section.of(schema, arch=str, model_type=str)


def combine(sources: Sequence[tuple[str, dict[str, Any]]], known: Section, path: str) -> dict[str, Any]:
    """Later sources over earlier ones, each checked under its own name, and the whole when it is resolved."""
    for source, values in sources:
        check(values, known, source)
    merged = _merge(*(values for _, values in sources))
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(merged), resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = error.full_key or "?"
        raise InputError(f"{path}: key {key} cannot be filled in: {_first_line(error)}") from error
    return check(typing.cast(dict[str, Any], resolved), known, path, complete=True)


def read_yaml(path: str | PathLike[str]) -> dict[str, Any]:
    """The mapping in a YAML file, interpolations as they are written; nothing in it is ever executed."""
    found = resolve_path(path)
    if not found.is_file():
        raise InputError(f"there is no configuration file {path}: correct the path")
    try:
        loaded = OmegaConf.load(found)
        values = OmegaConf.to_container(loaded, resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path} is not readable as YAML: {_first_line(error)}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no sections: a configuration has `model`, `datasets` and `run`")
    return typing.cast(dict[str, Any], values)


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """`["run.max_epoch", "5", "run.seed=1"]` -> `{"run": {"max_epoch": 5, "seed": 1}}`; values are YAML.

    Raises InputError for a key without a value (LAVIS drops it silently), an empty key, or a broken value.
    """
    nested: dict[str, Any] = {}
    remaining = iter(words)
    for word in remaining:
        key, equals, text = word.partition("=")
        if not equals:
            try:
                text = next(remaining)
            except StopIteration:
                raise InputError(f"--options: '{key}' has no value; write --options {key} VALUE") from None
        *parents, leaf = key.split(".")
        if not all((*parents, leaf)):
            raise InputError(f"--options: '{key}' is no key; a key looks like run.max_epoch")
        place = nested
        for parent in parents:
            if not isinstance(place.get(parent), dict):
                place[parent] = {}
            place = place[parent]
        place[leaf] = _read_value(key, text)
    return nested


def _read_value(key: str, text: str) -> Any:
    try:
        read = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
        return typing.cast(dict[str, Any], read)["value"]
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise InputError(f"--options: {key}: '{text}' is no YAML value: put it in quotes") from error


def _default(
    path: str | PathLike[str], folder: str, section: str, stem: str, key: str, values: Any
) -> tuple[str, dict[str, Any]]:
    """(name, content) of the default file that `values[key]` chooses: configs/models/dialogue_tiny.yaml."""
    kind = values.get(key) if isinstance(values, dict) else None
    if not isinstance(kind, str):
        raise InputError(f"{path}: {section}.{key} is missing: it chooses configs/{folder}/{stem}_*.yaml")
    name = f"configs/{folder}/{stem}_{kind}.yaml"
    if not resolve_path(name).is_file():
        folders = (Path("configs", folder), PROJECT / "configs" / folder)
        places = [place for configs in folders for place in configs.glob(f"{stem}_*.yaml")]
        known = _nearest_first(kind, {place.stem.removeprefix(f"{stem}_") for place in places})
        raise InputError(f"{path}: {section}.{key} is '{kind}' but there is no {name}; known are: {known}")
    content = read_yaml(name)
    inner: Any = content
    for part in section.split("."):
        inner = inner.get(part) if isinstance(inner, dict) else None
    if not isinstance(inner, dict):
        raise InputError(f"{name} has no section {section}: add it")
    return name, content


def _section(values: Mapping[str, Any], name: str, path: str | PathLike[str]) -> dict[str, Any]:
    section = values.get(name)
    if not isinstance(section, dict) or not section:
        raise InputError(f"{path} has no `{name}` section: add it")
    return section


def _merge(*values: dict[str, Any]) -> dict[str, Any]:
    """Later values over earlier ones: mappings are merged, everything else replaced."""
    result: dict[str, Any] = {}
    for mapping in values:
        for key, value in mapping.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = _merge(result[key], value) if both else value
    return result


def _nearest_first(wrong: Any, known: Iterable[str]) -> str:
    """The known names, the nearest to `wrong` first."""
    names = sorted(known)
    return ", ".join(difflib.get_close_matches(str(wrong), names, n=max(len(names), 1), cutoff=0.0)) or "none"


def _first_line(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return str(error).split("\n")[0].strip() or type(error).__name__
