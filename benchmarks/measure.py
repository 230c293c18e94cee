"""What the benchmarks share: timing, the machine's own matrix-multiply rate, its name, and the table."""

import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

# Python puts a script's folder first, where the benchmark `extraction.py` would hide the package of its name.
HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(path for path in sys.path if Path(path).resolve() != HERE), str(HERE)]

from extraction.imagebind.packed import PackedLinear, can_pack  # noqa: E402

MATRIX = 2048  # side of the square matrices that the machine's rate is measured with


@dataclass(frozen=True)
class Timing:
    """Seconds for one call: by the clock, and of CPU over all threads."""

    wall: float
    cpu: float


def timed(function: Callable[[], object], seconds: float, device: torch.device | str = "cpu") -> Timing:
    """The mean time of a call of `function`, after one to warm up, over calls for about `seconds`."""
    cuda = torch.device(device).type == "cuda"

    def finish() -> None:
        if cuda:
            torch.cuda.synchronize()

    function()
    finish()
    wall, cpu, calls = time.perf_counter(), time.process_time(), 0
    while calls == 0 or time.perf_counter() - wall < seconds:
        function()
        finish()
        calls += 1
    return Timing((time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls)


def matmul_rate(dtype: torch.dtype, device: torch.device | str = "cpu") -> float:
    """FLOP per second of the machine for a large product in `dtype`; on a CPU per CPU-second.

    The better of torch's plain linear layer and, on a CPU, the packed one.
    """
    x = torch.randn(MATRIX, MATRIX, device=device).to(dtype)
    weight = torch.randn(MATRIX, MATRIX, device=device).to(dtype)
    cpu = torch.device(device).type == "cpu"
    ways: list[Callable[[], object]] = [lambda: F.linear(x, weight)]
    if cpu and can_pack(dtype):
        packed = PackedLinear(weight, None)
        ways.append(lambda: packed(x))
    with torch.inference_mode():
        times = [timed(way, 1.0, device) for way in ways]
    return 2 * MATRIX**3 / min(timing.cpu if cpu else timing.wall for timing in times)


def machine(device: torch.device | str = "cpu") -> str:
    """One line: processor or GPU, cores, threads, torch, date."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    if torch.device(device).type == "cuda":
        name = f"{torch.cuda.get_device_name(device)}, {name}"
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}{load}, {date.today()}"
    )


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> None:
    """Print one table, the first column to the left and the others to the right."""
    table = Table(title=title, caption=caption, caption_justify="left", title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    # Wide enough for every row: in a log a cut figure is no figure.
    Console(width=max(120, Console().width)).print(table)
