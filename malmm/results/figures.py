"""The pictures of docs/results.md: learning curves, and the bank's merges for one dialogue."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from malmm.config import load_model, resolve_path
from malmm.data.mini import picture_name
from malmm.data.visdial import VisDialDataset, collate
from malmm.models.dialogue import DialogueConfig, DialogueModel

MODEL_CONFIG = "configs/models/dialogue_tiny.yaml"
LOG = "assets/tiny/training_log.jsonl"
SLOTS = 4  # of the bank that is drawn: few enough that most turns are merged
WINDOW = 20  # steps that a point of a loss curve is the mean of
COLORS = mpl.colormaps["tab10"].colors  # type: ignore[attr-defined]


def learning_curves(runs: Mapping[str, Sequence[Path]], path: Path) -> None:
    """Left: the making of the default, by stage; right: training loss of the finetunings, a line a seed."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _making(left)
    for (name, files), color in zip(runs.items(), COLORS, strict=False):
        for number, file in enumerate(files):
            losses = [json.loads(line)["loss"] for line in file.read_text().splitlines()]
            parts = [losses[start : start + WINDOW] for start in range(0, len(losses), WINDOW)]
            means = [sum(part) / len(part) for part in parts]
            steps = [min(WINDOW * (i + 1), len(losses)) for i in range(len(means))]
            right.plot(steps, means, color=color, linewidth=1, label=name if number == 0 else None)
    right.set(xlabel="steps of 8 dialogues", ylabel="training loss", title="Finetuning from fresh layers")
    right.legend(fontsize=8)
    figure.savefig(path, dpi=90)


def _making(axes: Axes) -> None:
    lines = [json.loads(line) for line in resolve_path(LOG).read_text().splitlines()]
    shown = {
        "direct": "needs no history",
        "refers_back": "refers back",
        "shuffled_pictures": "pictures shuffled",
    }
    done = 0
    for stage in ("memory", "language"):
        rows = [line for line in lines if line["stage"] == stage]
        for (key, label), color in zip(shown.items(), COLORS, strict=False):
            steps = [done + row["step"] for row in rows]
            values = [100 * row[key] for row in rows]
            axes.plot(steps, values, color=color, label=label if done == 0 else None)
        axes.axvline(done, color="0.8", linewidth=0.8)
        axes.text(done + 150, 97, stage, fontsize=8, va="top")
        done += rows[-1]["step"]
    axes.set(xlabel="steps of 12 dialogues", ylabel="held-out answers right, %", ylim=(0, 100))
    axes.set_title("Making the embedded default")
    axes.legend(fontsize=8, loc="lower right")


def merges(out: Path, path: Path) -> None:
    """The first dialogue of val: its picture, its turns with answers, and the slots after every turn."""
    dataset = VisDialDataset(out / "data" / "visdial_1.0_val.json", out / "store" / "val")
    model = DialogueModel.from_config(load_model(MODEL_CONFIG, DialogueConfig)).train(False)
    model.config = dataclasses.replace(model.config, memory_bank_length=SLOTS)
    batch = collate([dataset[0]])
    said = model.answer(batch)[0]
    history, state = [], model.init_state()
    for turn in range(batch.text.shape[1]):
        _, state = model.observe(batch.vision, batch.text[:, turn], state)
        history.append([slot.turns for slot in model.memory_slots(state)])
    caption = dataset.annotations.dialogs[0]["caption"]
    rows = [caption, *batch.questions[0]]
    marks = ["", *(f"{own} ({'right' if own == true else f'wrong: {true}'})"
                   for own, true in zip(said, batch.answers[0], strict=True))]  # fmt: skip

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    shown, axes = figure.subplots(1, 2, width_ratios=(1, 3.4))
    shown.imshow(Image.open(out / "data" / picture_name("val", dataset.image_ids[0])))
    shown.set_axis_off()
    shown.set_title("what it was shown", fontsize=9)
    for turn, slots in enumerate(history):
        for slot in slots:
            _draw_slot(axes, turn, slot)
        axes.text(len(rows) + 0.1, turn, f"{turn}  {rows[turn]}   {marks[turn]}", fontsize=8, va="center")
    axes.set(xlim=(-0.6, len(rows) * 2.15), ylim=(len(rows) - 0.4, -1.2))
    axes.set_axis_off()
    title = f"a bank of {SLOTS} slots after each turn: boxes are slots, numbers the turns merged in them"
    axes.set_title(title, fontsize=9, loc="left")
    figure.savefig(path, dpi=90)


def _draw_slot(axes: Axes, turn: int, slot: Sequence[int]) -> None:
    color = COLORS[slot[0] % len(COLORS)]
    width = len(slot) - 0.12
    box = FancyBboxPatch(
        (slot[0] - 0.44, turn - 0.36), width, 0.72, boxstyle="round,pad=0,rounding_size=0.15",
        facecolor=(*color, 0.25 if len(slot) == 1 else 0.55), edgecolor=color, linewidth=1,
    )  # fmt: skip
    axes.add_patch(box)
    for number in slot:
        axes.text(number, turn, str(number), fontsize=7, ha="center", va="center")
