"""`python -m malmm`: chat, quickstart, the generated world, and the making of the embedded weights."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from extraction.errors import InputError as ExtractionInputError
from malmm.errors import InputError

# Heavy imports stand inside the commands, so that --help answers at once.

app = typer.Typer(
    name="malmm",
    help="A dialogue model that remembers pictures and questions through memory banks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="Make data, or look at it.", no_args_is_help=True)
app.add_typer(data, name="data")
evaluate = typer.Typer(
    help="Score parts of the model; `evaluate.py` scores checkpoints.", no_args_is_help=True
)
app.add_typer(evaluate, name="evaluate")
accounts = typer.Typer(help="Who may use `serve --auth`.", no_args_is_help=True)
app.add_typer(accounts, name="accounts")

# Options that several commands have.
ConfigOption = Annotated[
    Path | None, typer.Option(help="Model configuration; default: the checkpoint's, or the embedded one.")
]
CheckpointOption = Annotated[
    Path | None, typer.Option(help="Trained layers: a checkpoint_*.pth or a save_pretrained folder.")
]
LanguageOption = Annotated[str | None, typer.Option("--llm_model_path", help="Folder of the language model.")]
StoreOption = Annotated[
    str | None, typer.Option(help="The long-term memory: a file, or postgresql://user@host/database.")
]
MemoryConfigOption = Annotated[
    Path | None, typer.Option(help="What is recalled, and how; default: configs/memory/default.yaml.")
]
OptionsFlag = Annotated[
    bool, typer.Option("--options", help="Override keys with the KEY VALUE pairs that follow.")
]
MemoryKeys = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY VALUE]...", help="As in: --options memory.recall.k 10"),
]


def key_values(options: bool, overrides: list[str] | None) -> list[str]:
    """The words behind `--options`. Raises InputError for words that no `--options` stands before."""
    if overrides and not options:
        raise InputError(f"unexpected argument {overrides[0]}: write --options before KEY VALUE pairs")
    return overrides or []


@app.command()
def chat(
    image: Annotated[
        Path | None, typer.Option(help="The picture to talk about; /image shows another.")
    ] = None,
    caption: Annotated[str | None, typer.Option(help="What the model is told of the picture.")] = None,
    config: ConfigOption = None,
    checkpoint: CheckpointOption = None,
    llm_model_path: LanguageOption = None,
    user: Annotated[
        str | None, typer.Option(help="Whose long-term memory; default with any option of it: me.")
    ] = None,
    store: StoreOption = None,
    conversation: Annotated[
        str | None, typer.Option(help="Name of a conversation, to go on where it stopped.")
    ] = None,
    memory_config: MemoryConfigOption = None,
    options: OptionsFlag = False,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY VALUE]...", help="As in: --options model.memory_bank_length 20"),
    ] = None,
) -> None:
    """Talk about pictures in the terminal; with --user or --store also about those of earlier chats."""
    from malmm.chat.start import MemoryOptions
    from malmm.chat.start import chat as run_chat

    memory = MemoryOptions(user, store, conversation, memory_config)
    words = key_values(options, overrides)
    raise typer.Exit(run_chat(image, caption, config, checkpoint, llm_model_path, words, memory))


@app.command()
def serve(
    host: Annotated[
        str, typer.Option(help="Where to listen; others than this machine need --auth.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 7860,
    auth: Annotated[
        Path | None,
        typer.Option(help="File of accounts (`malmm accounts add`); without one everybody is the user `me`."),
    ] = None,
    store: StoreOption = None,
    config: ConfigOption = None,
    checkpoint: CheckpointOption = None,
    llm_model_path: LanguageOption = None,
    memory_config: MemoryConfigOption = None,
    max_upload_mb: Annotated[int, typer.Option(min=1, help="The largest request, in MiB.")] = 32,
    options: OptionsFlag = False,
    overrides: MemoryKeys = None,
) -> None:
    """Open the chat with its memory as a page and as an OpenAI-compatible endpoint."""
    from malmm.chat.server import Address
    from malmm.chat.server import serve as run_serve

    words, where = key_values(options, overrides), Address(host, port)
    raise typer.Exit(
        run_serve(where, auth, store, config, checkpoint, llm_model_path, words, max_upload_mb, memory_config)
    )


AuthOption = Annotated[Path, typer.Option(help="The file of accounts.")]
NameArgument = Annotated[str, typer.Argument(help="The user's name.")]
ACCOUNTS = Path("accounts.txt")


@accounts.command("add")
def add_account(name: NameArgument, auth: AuthOption = ACCOUNTS) -> None:
    """Make an account, or give it another password (asked for, or the first line of the input)."""
    from malmm.chat.accounts import add_account as add

    print(add(auth, name))


@accounts.command("key")
def add_key(name: NameArgument, auth: AuthOption = ACCOUNTS) -> None:
    """Make an API key for /v1 and print it; it is stored nowhere."""
    from malmm.chat.accounts import add_key as add

    print(add(auth, name))


@accounts.command("remove")
def remove_account(name: NameArgument, auth: AuthOption = ACCOUNTS) -> None:
    """Remove an account and its keys; the user's memories stay in the store."""
    from malmm.chat.accounts import remove_account as remove

    print(remove(auth, name))


@evaluate.command("memory")
def evaluate_memory(
    out: Annotated[Path, typer.Option(help="Folder of results.json and of the generated world.")] = Path(
        "outputs/memory"
    ),
    seed: Annotated[
        int, typer.Option(help="Of the generated world; what is tuned is tuned on 1000 and up.")
    ] = 0,
    users: Annotated[int, typer.Option(min=1, help="Users of the world.")] = 12,
    conversations: Annotated[int, typer.Option(min=2, help="Conversations of a user.")] = 10,
    questions: Annotated[int, typer.Option(min=1, help="Asked at the end of a conversation.")] = 5,
    locomo: Annotated[
        Path | None, typer.Option(help="A file in LoCoMo's format, instead of the generated world.")
    ] = None,
    ablation: Annotated[
        bool, typer.Option("--ablation", help="Also the recall with each of its terms alone.")
    ] = False,
    config: Annotated[Path | None, typer.Option(help="Model configuration; default: embedded.")] = None,
    memory_config: MemoryConfigOption = None,
    options: OptionsFlag = False,
    overrides: MemoryKeys = None,
) -> None:
    """Score what the long-term memory finds of earlier conversations, and what is answered from it."""
    from malmm.evaluate.memory_run import WorldSizes, run

    sizes = WorldSizes(users, conversations, questions)
    command = shlex.join(["python", "-m", "malmm", *sys.argv[1:]])
    words = key_values(options, overrides)
    run(out, sizes, seed, locomo, ablation, config, memory_config, words, command)


@data.command()
def mini(
    out: Annotated[Path, typer.Option(help="Folder to make.")] = Path("data/mini"),
    train: Annotated[int, typer.Option(min=1, help="Dialogues to train on.")] = 1500,
    val: Annotated[int, typer.Option(min=1, help="Dialogues to validate on.")] = 200,
    test: Annotated[int, typer.Option(min=1, help="Dialogues whose last answer is hidden.")] = 50,
    seed: Annotated[int, typer.Option(help="The same seed makes the same files.")] = 0,
    sounds: Annotated[
        bool, typer.Option("--sounds", help="Also the sound of each picture of val, a WAV of 64 KB.")
    ] = False,
) -> None:
    """Generate the mini world: pictures and dialogues in the VisDial v1.0 format."""
    from malmm.data.mini import write_world
    from malmm.data.mini_sound import write_sounds

    write_world(out, train=train, val=val, test=test, seed=seed)
    if sounds:
        write_sounds(out, val, seed=seed)


@data.command()
def clips(
    out: Annotated[Path, typer.Option(help="Folder to make; each set gets its own below it.")] = Path(
        "data/mini_clips"
    ),
    only: Annotated[
        list[str] | None, typer.Option(help="Benchmarks to make clips for, as msvd_qa; none: all.")
    ] = None,
    train: Annotated[int, typer.Option(min=1, help="Videos to train on, of each set.")] = 48,
    val: Annotated[int, typer.Option(min=1, help="Videos to validate on.")] = 24,
    test: Annotated[int, typer.Option(min=1, help="Videos to test on.")] = 24,
    seed: Annotated[int, typer.Option(help="The same seed makes the same clips.")] = 0,
) -> None:
    """Generate clips for the video benchmarks, each set in its own format."""
    from malmm.data.mini_clips import write_clips

    sizes = {"train": train, "val": val, "test": test}
    for folder in write_clips(out, only or [], sizes, seed):
        print(folder)


@data.command()
def science(
    out: Annotated[Path, typer.Option(help="Folder to make.")] = Path("data/mini_scienceqa"),
    train: Annotated[int, typer.Option(min=1, help="Problems to train on.")] = 400,
    val: Annotated[int, typer.Option(min=1, help="Problems to validate on.")] = 100,
    test: Annotated[int, typer.Option(min=1, help="Problems to test on.")] = 400,
    seed: Annotated[int, typer.Option(help="The same seed makes the same files.")] = 0,
) -> None:
    """Generate problems with choices and pictures, in ScienceQA's format."""
    from malmm.data.mini_science import write_problems

    print(write_problems(out, {"train": train, "val": val, "test": test}, seed))


DatasetOption = Annotated[str, typer.Option(help="A set as msvd_qa, or a folder of data/ as msvd.")]
TypeOption = Annotated[str, typer.Option("--type", help="Of configs/datasets/<set>_<type>.yaml.")]


@data.command()
def frames(
    dataset: DatasetOption,
    kind: TypeOption = "default",
    videos: Annotated[Path | None, typer.Option(help="Folder of films; default: as configured.")] = None,
    frames: Annotated[
        Path | None, typer.Option("--frames", help="Folder to write to; default: as configured.")
    ] = None,
    fps: Annotated[float, typer.Option(min=0.01, help="Frames a second; data sets count ten.")] = 10,
    height: Annotated[int, typer.Option(min=16, help="Pixels; the width follows.")] = 256,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Films at once; default: one a processor.")
    ] = None,
    keep_damaged: Annotated[
        bool, typer.Option("--keep-damaged", help="Write what can be read of a damaged film, too.")
    ] = False,
) -> None:
    """Extract the frames of a video benchmark's films, as MA-LMM's script does."""
    from malmm.data.commands import run_frames
    from malmm.data.extract_frames import Settings

    settings = Settings(fps, height, keep_damaged)
    raise typer.Exit(run_frames(dataset, kind, videos, frames, settings, workers))


@data.command("check")
def check_data(dataset: DatasetOption, kind: TypeOption = "default") -> None:
    """Say what is missing of a video benchmark, and from which page it comes."""
    from malmm.data.commands import run_check

    raise typer.Exit(run_check(dataset, kind))


@data.command("show")
def show_data(
    dataset: DatasetOption,
    kind: TypeOption = "default",
    split: Annotated[str, typer.Option(help="Whose records.")] = "val",
    count: Annotated[int, typer.Option("-n", min=1, help="How many records.")] = 3,
    num_frames: Annotated[
        int | None, typer.Option(min=1, help="Of a video; default: as in configs/tasks.")
    ] = None,
    train: Annotated[bool, typer.Option("--train", help="As in training: frames at random.")] = False,
) -> None:
    """Print a few records of a video benchmark as the model sees them."""
    from malmm.data.commands import run_show

    raise typer.Exit(run_show(dataset, kind, split, count, num_frames, train))


@app.command(
    "train-tiny",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def train_tiny(context: typer.Context) -> None:
    """Make the weights of the embedded default (assets/tiny)."""
    from malmm.train.tiny import main as run_train_tiny

    run_train_tiny(context.args)


@app.command(
    "train-tiny-video",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def train_tiny_video(context: typer.Context) -> None:
    """Make the weights of the embedded video model (assets/tiny_video)."""
    from malmm.train.tiny_video import main as run_train_tiny_video

    run_train_tiny_video(context.args)


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Everything is written under this folder.")] = Path(
        "outputs/quickstart"
    ),
    train: Annotated[int, typer.Option(min=1, help="Dialogues to finetune on.")] = 1500,
    val: Annotated[int, typer.Option(min=1, help="Dialogues to evaluate on.")] = 100,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training dialogues.")] = 5,
) -> None:
    """Generate, extract, evaluate, finetune, evaluate again, and talk: the whole pipeline in minutes."""
    from malmm.quickstart import Quickstart, Sizes, StepError

    try:
        Quickstart(out, Sizes(train, val, epochs)).run()
    except StepError as step:
        print("the quickstart stopped there; the same command goes on from it", file=sys.stderr)
        raise typer.Exit(step.status) from None


@app.command()
def results(
    out: Annotated[Path, typer.Option(help="Where the work is kept.")] = Path("outputs/results"),
    docs: Annotated[Path, typer.Option(help="Folder of results.md, whose tables are replaced.")] = Path(
        "docs"
    ),
    quick: Annotated[
        bool, typer.Option("--quick", help="The same steps in small; docs stay as they are.")
    ] = False,
) -> None:
    """Make the tables and figures of docs/results.md for the dialogue default."""
    from malmm.quickstart import StepError
    from malmm.results.plan import QUICK, Sizes
    from malmm.results.run import Results

    try:
        Results(out, QUICK if quick else Sizes(), None if quick else docs).run()
    except StepError as step:
        print("the results stopped there; the same command goes on from it", file=sys.stderr)
        raise typer.Exit(step.status) from None


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; what a person's input causes ends with one sentence and exit status 2."""
    try:
        app(args=arguments, prog_name="python -m malmm")
    except (InputError, ExtractionInputError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
