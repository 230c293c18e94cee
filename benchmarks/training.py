"""Speed and memory of training `imagebind_fc` and `turn_pe`: our step against a plain loop, one table.

    python benchmarks/training.py                             # the embedded default
    python benchmarks/training.py --sizes llama32_1b          # Llama-3.2-1B's sizes, up to 7 GB

tiny: the embedded default and its task file, on dialogues of the mini world. llama32_1b: the sizes of
configs/models/dialogue_llama32_1b.yaml with random weights, the language model in bfloat16, on dialogues of
VisDial (`--annotations`, by default the excerpt of MALMM_SHARED; the mini world's where there is none),
tokenised as in ranking.py. Embeddings of pictures and texts are random.

The training step is `Trainer.backward` and the optimizer's. The plain loop takes one round at a time: turns
0 to t go through the Q-Former one after another, then one row through the language model, with vocabulary
logits at every position. It comes in two forms, which compute the same: the losses of all rounds are summed
and go backward together, or each goes backward by itself at once, which needs less memory.

Every form has a process of its own, the forms taking turns; all must come to the same loss and gradients.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from measure import machine, show
from memory_bank import Memory
from ranking import EXCERPT, Rounds, random_llama
from rich.progress import Progress
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from extraction.visdial import read_visdial
from malmm.config import PROJECT, TaskConfig, load_task
from malmm.data.mini import make_world_item
from malmm.data.visdial import DialogueItem, collate
from malmm.models.dialogue import DialogueBatch, DialogueConfig, DialogueModel
from malmm.models.language import IGNORED
from malmm.train.folder import RunFolder
from malmm.train.loop import Trainer
from malmm.train.tasks import MODELS

from accelerate import Accelerator  # isort: skip

TASK = "configs/tasks/finetune_visdial.yaml"
OPTIONS = {"tiny": [], "llama32_1b": ["model.model_type", "llama32_1b"]}
DIALOGUES = {"tiny": 8, "llama32_1b": 1}  # a step: the task file's; as many as the plain loop leaves room for
# Gradients may differ by so much of the largest one: float32 sums in another order, bfloat16 products.
TOLERANCE = {"tiny": 1e-4, "llama32_1b": 3e-2}
PLAIN, PLAIN_EACH, STEP = "plain", "plain, backward each round", "training step"
COLUMNS = ("", "s", "CPU-s", "dialogues/CPU-s", "times", "loaded", "above it", "in all", "apart")
CAPTION = """s, CPU-s: of the quickest step; times: as fast as plain, by CPU-seconds; loaded: MB of the
process before its first step; above it, in all: its peak, and in brackets how often that goes into plain's;
apart: largest difference to plain's gradients, relative to the largest"""


# -- what is trained ---------------------------------------------------------------------------------------


def read_talks(sizes: str, annotations: Path, count: int) -> list[tuple[list[str], list[str | None]]]:
    """Questions and answers of the first dialogues."""
    if sizes == "tiny" or not annotations.is_file():
        dialogues = [make_world_item("train", index)[2].rounds for index in range(count)]
        return [([r.question for r in rounds], [r.answer for r in rounds]) for rounds in dialogues]
    data = read_visdial(annotations, answer_options=False)
    return [(data.dialog_questions(i), data.dialog_answers(i)) for i in range(count)]


def make_items(config: TaskConfig, talks: list[tuple[list[str], list[str | None]]]) -> list[DialogueItem]:
    """The dialogues as the data set gives them, with embeddings as long as ImageBind's."""
    width, generator = config.model["embedding_width"], torch.Generator().manual_seed(1)
    items = []
    for number, (questions, answers) in enumerate(talks):
        vision = F.normalize(torch.randn(width, generator=generator), dim=-1)
        text = F.normalize(torch.randn(1 + len(questions), width, generator=generator), dim=-1) / 0.07
        items.append(
            DialogueItem(image_id=number, vision=vision, text=text, questions=questions, answers=answers)
        )
    return items


def make_model(sizes: str, config: TaskConfig, items: list[DialogueItem]) -> DialogueModel:
    """The model of the task file, with random weights where they are not the embedded ones."""
    if sizes == "tiny":
        return DialogueModel.from_config(config.model)
    settings = DialogueConfig.from_dict(config.model)
    texts = Rounds(
        [settings.prompt.format(question=text) for item in items for text in item["questions"]],
        [[text or "" for item in items for text in item["answers"]]],
    )
    model = DialogueModel(settings, random_llama(texts, torch.bfloat16, torch.device("cpu")))
    model.freeze()
    return model


# -- the forms ---------------------------------------------------------------------------------------------


def round_losses(model: DialogueModel, batch: DialogueBatch) -> Iterator[tuple[Tensor, int]]:
    """Of every round by itself: the summed loss over its answer's tokens, and their number."""
    for b, (questions, answers) in enumerate(zip(batch.questions, batch.answers, strict=True)):
        for r, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            state = model.qformer.init_state(1, model.config.memory_bank_length)
            for turn in range(r + 2):  # the caption, the earlier questions and this one
                text = batch.text[b : b + 1, turn : turn + 1]
                frame = model.embed_turns(batch.vision[b : b + 1], text, torch.tensor([turn]))  # [1, 1, H]
                out, state = model.qformer.step(frame, state, detach=False)
            queries = model.llm_proj(out)  # [1, Q, E]
            embeddings, mask, labels = model.language.answer_rows(
                queries, [model.prompt(question)], [answer or ""]
            )
            causal = model.language.causal
            embeddings = embeddings.to(causal.get_input_embeddings().weight.dtype)
            logits = causal(inputs_embeds=embeddings, attention_mask=mask, use_cache=False).logits
            loss = F.cross_entropy(
                logits[0, :-1].float(), labels[0, 1:], ignore_index=IGNORED, reduction="sum"
            )
            yield loss, int((labels != IGNORED).sum())


def plain_backward(trainer: Trainer, batch: DialogueBatch, each: bool) -> float:
    """Leave the gradient of the mean loss over all answer tokens in `.grad`; returns that loss."""
    trainer.optimizer.zero_grad(set_to_none=True)
    total, tokens, losses = 0.0, 0, []
    with trainer.accelerator.autocast():
        for loss, count in round_losses(trainer.model, batch):
            total, tokens = total + loss.item(), tokens + count
            if each:
                loss.backward()
            else:
                losses.append(loss)
    if losses:
        torch.stack(losses).sum().backward()
    for _, parameter in trainer.learning:
        parameter.grad.div_(tokens)
    return total / tokens


def step_backward(trainer: Trainer, batch: DialogueBatch) -> float:
    """The same, as the training does it."""
    loss_sum, tokens, _ = trainer.backward([batch])
    return loss_sum / tokens


FORMS: dict[str, Callable[[Trainer, DialogueBatch], float]] = {
    PLAIN: lambda trainer, batch: plain_backward(trainer, batch, each=False),
    PLAIN_EACH: lambda trainer, batch: plain_backward(trainer, batch, each=True),
    STEP: step_backward,
}


# -- one process -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What a process measured: seconds of its quickest step, bytes, and the loss of its first step."""

    wall: float
    cpu: float
    loaded: float
    above: float
    loss: float


def work(arguments: argparse.Namespace) -> None:
    """Measure one form and write what was found, and the gradients of the first step, into a folder."""
    sizes, form = arguments.sizes, FORMS[arguments.form]
    with tempfile.TemporaryDirectory() as folder:
        config = load_task(TASK, [*OPTIONS[sizes], "run.output_dir", folder], MODELS)
        torch.set_num_threads(arguments.threads)
        items = make_items(config, read_talks(sizes, arguments.annotations, arguments.dialogues))
        accelerator = Accelerator(cpu=True, mixed_precision=str(config.run.amp))
        model = make_model(sizes, config, items)
        trainer = Trainer(config, model, {"train": items}, RunFolder(config), accelerator)
    trainer.model.train()
    batch, memory, times = collate(items), Memory(torch.device("cpu")), []
    for step in range(arguments.steps):
        wall, cpu = time.perf_counter(), time.process_time()
        loss = form(trainer, batch)
        if step == 0:
            first = loss
            gradients = {name: parameter.grad.clone() for name, parameter in trainer.learning}
        trainer.optimizer.step()
        times.append((time.process_time() - cpu, time.perf_counter() - wall))
    quickest = min(times)
    found = Found(quickest[1], quickest[0], memory.start, memory.peak(), first)
    save_file(gradients, arguments.worker / "gradients.safetensors")
    (arguments.worker / "found.json").write_text(json.dumps(asdict(found)))


# -- all of them -------------------------------------------------------------------------------------------


def call(arguments: argparse.Namespace, form: str) -> tuple[Found, dict[str, Tensor]]:
    """Measure one form in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, __file__, "--worker", folder, "--form", form, "--sizes", arguments.sizes]
        for name in ("dialogues", "steps", "threads", "annotations"):
            words += [f"--{name}", str(getattr(arguments, name))]
        subprocess.run(words, check=True)
        found = Found(**json.loads(Path(folder, "found.json").read_text()))
        return found, load_file(Path(folder, "gradients.safetensors"))


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference of two gradients, relative to the largest entry of the tensor that it is in."""
    return max(
        ((found[name] - value).abs().max() / value.abs().max()).item() for name, value in expected.items()
    )


def compare(arguments: argparse.Namespace) -> bool:
    """Print the table; returns whether all forms came to the same loss and gradients."""
    runs: dict[str, list[Found]] = {form: [] for form in FORMS}
    gradients: dict[str, dict[str, Tensor]] = {}
    with Progress() as progress:
        for form in progress.track([*FORMS] * arguments.repeats, description="processes"):
            found, gradients[form] = call(arguments, form)
            runs[form].append(found)
    # Of every form the process with the quickest step.
    best = {form: min(found, key=lambda one: one.cpu) for form, found in runs.items()}
    plain, rows, same = best[PLAIN], [], True
    for form, found in best.items():
        apart = difference(gradients[form], gradients[PLAIN])
        same = same and apart <= TOLERANCE[arguments.sizes]
        whole, plain_whole = found.loaded + found.above, plain.loaded + plain.above
        rows.append(
            (
                form,
                f"{found.wall:.3g}",
                f"{found.cpu:.3g}",
                f"{arguments.dialogues / found.cpu:.3g}",
                f"{plain.cpu / found.cpu:.1f}",
                f"{found.loaded / 1e6:.0f}",
                f"{found.above / 1e6:.0f} ({plain.above / found.above:.1f})",
                f"{whole / 1e6:.0f} ({plain_whole / whole:.1f})",
                f"{apart:.0e}",
            )
        )
    losses = ", ".join(f"{found.loss:.5f}" for found in best.values())
    title = f"{arguments.sizes}, {arguments.dialogues} dialogue(s) of ten rounds a step; losses {losses}"
    show(title, COLUMNS, rows, CAPTION)
    return same


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = Path(os.environ.get("MALMM_SHARED", PROJECT.parent / "shared"))
    parser.add_argument("--sizes", choices=DIALOGUES, default="tiny")
    parser.add_argument("--dialogues", type=int, help="a step (default: tiny 8, llama32_1b 1)")
    parser.add_argument("--steps", type=int, default=3, help="of every process; the quickest counts")
    parser.add_argument("--repeats", type=int, default=2, help="processes of every form")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument(
        "--annotations", type=Path, default=shared / EXCERPT, help="VisDial file of llama32_1b"
    )
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.dialogues = arguments.dialogues or DIALOGUES[arguments.sizes]
    if arguments.worker:
        work(arguments)
        return
    torch.set_num_threads(arguments.threads)
    print(machine())
    if not compare(arguments):
        sys.exit(f"error: the gradients differ by more than {TOLERANCE[arguments.sizes]:g}")


if __name__ == "__main__":
    main()
