"""Speed and memory of the long-term memory in SQLite, beside a plain full scan and a library's index.

    python benchmarks/memory_store.py                              # 10 k and 100 k records of 100 users
    python benchmarks/memory_store.py --sizes 10k,100k,1m          # 1 m: 3 GB of disk, 8 GB of memory
    python benchmarks/memory_store.py --embeddings iid             # the hard case, see memory_corpus.py

Every search wants the ten records of the highest combined score. Three ways, on the same queries: `store` is
`SQLiteStore.search`, which returns whole records; `plain` scores every record with NumPy in float32, from
arrays that were read from the file beforehand, and its order is what recall is counted against; `qdrant-edge`
finds candidates by cosine in its HNSW graph, which are scored and ordered by NumPy. Then what else a store
does: each insert and each count is durable (synchronous = FULL) when it returns.
"""

import argparse
import ctypes
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from measure import Timing, machine, show
from memory_corpus import NOW, WIDTH, Corpus
from memory_rivals import LibraryIndex, PlainScan
from rich.progress import track

from malmm.memory.record import Draft, Query, Vector, Weights
from malmm.memory.sqlite import SQLiteStore

K = 10
IDENTITY = {"name": "benchmark"}
BATCH = 1000  # records of one transaction while a store is filled
STATM = Path("/proc/self/statm")
SEARCH = ("", "one ms", "p95", "CPU ms", "recall", "all ms", "p95", "CPU ms", "recall", "ready s", "MB")
CHANGE = (
    "",
    "sync ms",
    "insert ms",
    "p95",
    "touch ms",
    "p95",
    "catch up",
    "open s",
    "first s",
    "file MB",
    "fill s",
)
SEARCHED = """one, all: the records of a user, and of all users, medians; recall: of plain's ten; ready: until
all can be searched; MB: memory of the process then, beyond what it took before"""
CHANGED = """sync: what the disk alone takes for 8 kB more of a file, in the same minute; touch: counts of ten
accesses; catch up: a search after another process has written; open: the file; first: search of one
user then; fill: what the store took to write all"""
T = TypeVar("T")
Search = Callable[[Vector, int | None], list[int]]  # query, number of a user (None: all) -> ids, best first


@dataclass
class Times:
    """Calls by the clock and of CPU."""

    timings: list[Timing] = field(default_factory=list)

    def of(self, function: Callable[[], T]) -> T:
        """Call it, and keep how long that took."""
        wall, cpu = time.perf_counter(), time.process_time()
        result = function()
        self.timings.append(Timing(time.perf_counter() - wall, time.process_time() - cpu))
        return result

    def cells(self) -> tuple[str, str]:
        """Median and 95th percentile in ms by the clock."""
        wall = [1e3 * timing.wall for timing in self.timings]
        return f"{np.median(wall):.2f}", f"{np.quantile(wall, 0.95):.2f}"

    def cpu(self) -> str:
        """Median ms of CPU."""
        return f"{1e3 * np.median([timing.cpu for timing in self.timings]):.2f}"


def resident() -> int:
    """Bytes that the process takes now."""
    if not STATM.exists():
        return 0
    ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back
    return 4096 * int(STATM.read_text().split()[1])


class Bench:
    """One size: a file, and what is asked of it."""

    def __init__(
        self, path: Path, corpus: Corpus, weights: Weights, searches: int, searches_all: int
    ) -> None:
        self.path, self.corpus, self.weights = path, corpus, weights
        self.fill_seconds = self._fill()
        self.asked: list[tuple[Vector, int | None]] = []
        rng = np.random.default_rng(4)
        with self.open() as store:
            for seed in range(searches + searches_all):
                user, row = rng.integers(corpus.users), rng.integers(corpus.size // corpus.users)
                [about] = store.records(corpus.names[user], limit=1, offset=int(row))
                whose = int(user) if seed < searches else None
                self.asked.append((corpus.query(about.embedding, seed), whose))

    def open(self) -> SQLiteStore:
        """The store."""
        return SQLiteStore(self.path, WIDTH, IDENTITY)

    def _fill(self) -> float:
        """Write the records in large transactions -> seconds that the store took."""
        seconds = 0.0
        with self.open() as store:
            for user in track(range(self.corpus.users), f"{self.corpus.size} records", transient=True):
                drafts, ids = self.corpus.drafts(user), []
                begun = time.perf_counter()
                for start in range(0, len(drafts), BATCH):
                    ids += store.add(drafts[start : start + BATCH])
                for some in self.corpus.touches(user, ids):
                    store.touch(self.corpus.names[user], some, NOW)
                seconds += time.perf_counter() - begun
        return seconds

    def search(self, search: Search) -> tuple[Times, Times, list[set[int]]]:
        """Times of the searches of one user and of all, and what each found; the first ones warm up."""
        one, everyone, found = Times(), Times(), []
        for query, user in (self.asked[0], self.asked[-1]):
            search(query, user)
        for query, user in self.asked:
            times = everyone if user is None else one
            found.append(set(times.of(lambda query=query, user=user: search(query, user))))
        return one, everyone, found

    def recalls(self, found: Sequence[set[int]], exact: Sequence[set[int]]) -> tuple[str, str]:
        """Share of the exact best that was found, of searches of one user and of all."""
        shares: dict[bool, list[float]] = {False: [], True: []}
        for (_, user), own, best in zip(self.asked, found, exact, strict=True):
            shares[user is None].append(len(own & best) / len(best))
        return f"{np.mean(shares[False]):.4f}", f"{np.mean(shares[True]):.4f}"


@dataclass(frozen=True)
class Result:
    """One way to search: times, what was found, seconds until it was ready, bytes of memory."""

    one: Times
    everyone: Times
    found: list[set[int]]
    ready: float
    memory: int

    def cells(self, recalls: tuple[str, str]) -> list[str]:
        """Of the first table."""
        cells = []
        for times, recall in zip((self.one, self.everyone), recalls, strict=True):
            cells += [*times.cells(), times.cpu(), recall]
        return [*cells, f"{self.ready:.1f}", f"{self.memory / 1e6:.0f}"]


def search_store(bench: Bench) -> tuple[Result, list[str]]:
    """`SQLiteStore` -> its result, and seconds to open the file and of the first search of a user."""
    corpus, start = bench.corpus, resident()
    opening, first, ready = Times(), Times(), Times()
    store = opening.of(bench.open)

    def search(query: Vector, user: int | None) -> list[int]:
        name = None if user is None else corpus.names[user]
        return [match.record.id for match in store.search(Query(query, name, NOW, K, bench.weights))]

    with store:
        first.of(lambda: search(*bench.asked[0]))
        ready.of(lambda: search(bench.asked[-1][0], None))
        memory = resident() - start
        one, everyone, found = bench.search(search)
    seconds = [f"{times.timings[0].wall:.3f}" for times in (opening, first)]
    return Result(one, everyone, found, ready.timings[0].wall, memory), seconds


def search_plain(bench: Bench) -> tuple[Result, PlainScan]:
    """The plain scan."""
    start, ready, corpus = resident(), Times(), bench.corpus
    with bench.open() as store:
        plain = ready.of(lambda: PlainScan(store, corpus.size, corpus.names, K, bench.weights))
    memory = resident() - start
    return Result(*bench.search(plain.search), ready.timings[0].wall, memory), plain


def search_library(bench: Bench, plain: PlainScan, candidates: int) -> Result:
    """The library's index."""
    start, ready = resident(), Times()
    folder = bench.path.with_suffix(".index")
    index = ready.of(lambda: LibraryIndex(plain, folder, candidates))
    memory = resident() - start
    result = Result(*bench.search(index.search), ready.timings[0].wall, memory)
    index.close()
    shutil.rmtree(folder)
    return result


def add_one(path: Path, draft: Draft) -> None:
    """What another process writes."""
    with SQLiteStore(path, WIDTH, IDENTITY) as store:
        store.add([draft])


def append(path: Path) -> None:
    """Eight durable kilobytes more: what the disk alone takes."""
    with path.open("ab") as file:
        file.write(bytes(8192))
        file.flush()
        os.fsync(file.fileno())


def change_store(bench: Bench, times: int, catch_ups: int) -> list[str]:
    """Inserts, counts of ten accesses each, and a search after another process has written."""
    corpus, rng = bench.corpus, np.random.default_rng(5)
    sync, insert, touch, catch_up = Times(), Times(), Times(), Times()
    drafts = Corpus(times * corpus.users, corpus.users, corpus.iid).drafts(0)[:times]
    query = drafts[0].embedding
    another = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    with bench.open() as store, another:
        asked = Query(query, corpus.names[0], NOW, K, bench.weights)
        store.search(asked)
        for draft in drafts:
            insert.of(lambda draft=draft: store.add([draft]))
            sync.of(lambda: append(bench.path.with_suffix(".raw")))
        for user in rng.integers(corpus.users, size=times).tolist():
            records = store.records(
                corpus.names[user], limit=10, offset=int(rng.integers(corpus.size // corpus.users))
            )
            ids = [record.id for record in records]
            touch.of(lambda user=user, ids=ids: store.touch(corpus.names[user], ids, NOW))
        for draft in drafts[:catch_ups]:
            store.search(asked)
            another.submit(add_one, bench.path, draft).result()
            catch_up.of(lambda: store.search(asked))
    return [sync.cells()[0], *insert.cells(), *touch.cells(), catch_up.cells()[0]]


def measure(
    bench: Bench, library: bool, candidates: int, times: int, catch_ups: int
) -> tuple[list[list[str]], list[str]]:
    """Rows of the first table, and the row of the second, for one size."""
    size = f"{bench.corpus.size:,}".replace(",", " ")
    bytes_of_file = sum(file.stat().st_size for file in bench.path.parent.glob(f"{bench.path.name}*"))
    store, seconds = search_store(bench)
    plain, scan = search_plain(bench)
    ways = [("store", store), ("plain", plain)]
    if library:
        ways.append((f"qdrant-edge, {candidates}", search_library(bench, scan, candidates)))
    rows = [[f"{size}, {name}", *way.cells(bench.recalls(way.found, plain.found))] for name, way in ways]
    changes = change_store(bench, times, catch_ups)
    return rows, [size, *changes, *seconds, f"{bytes_of_file / 1e6:.0f}", f"{bench.fill_seconds:.0f}"]


def sizes(text: str) -> list[int]:
    """Of "10k,1m"."""
    units = {"k": 1000, "m": 1_000_000}
    return [int(one.rstrip("km")) * units.get(one[-1:], 1) for one in text.lower().split(",")]


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=sizes, default=[10_000, 100_000], help="records (default 10k,100k)")
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--embeddings", choices=("clustered", "iid"), default="clustered")
    parser.add_argument(
        "--weights", type=float, nargs=4, default=[1.0, 0.5, 0.2, 0.2],
        help="of relevance, recency, frequency and saliency (default 1 0.5 0.2 0.2)",
    )  # fmt: skip
    parser.add_argument("--searches", type=int, default=200, help="of one user")
    parser.add_argument("--searches-all", type=int, default=40, help="of all users")
    parser.add_argument("--changes", type=int, default=200, help="inserts, and counts of ten accesses")
    parser.add_argument("--catch-ups", type=int, default=20, help="with another process")
    parser.add_argument("--candidates", type=int, default=1000, help="of the library's index")
    parser.add_argument("--library-up-to", type=sizes, default=[100_000], help="records (default 100k)")
    parser.add_argument("--folder", type=Path, help="where the files are made (default: a temporary folder)")
    arguments = parser.parse_args()
    if min(arguments.sizes) < 10 * arguments.users:
        parser.error(f"--sizes: {arguments.users} users need at least ten records each")
    print(machine())
    searched: list[list[str]] = []
    changed: list[list[str]] = []
    for size in arguments.sizes:
        corpus = Corpus(size, arguments.users, arguments.embeddings == "iid")
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            bench = Bench(
                Path(folder) / "memory.db", corpus, Weights(*arguments.weights),
                arguments.searches, arguments.searches_all,
            )  # fmt: skip
            rows, row = measure(
                bench,
                size <= arguments.library_up_to[0],
                arguments.candidates,
                arguments.changes,
                arguments.catch_ups,
            )
        searched += rows
        changed.append(row)
    weights = " ".join(f"{weight:g}" for weight in arguments.weights)
    kind = f"{arguments.embeddings} embeddings, {arguments.users} users, weights {weights}"
    show("", SEARCH, searched, f"{kind};\n{SEARCHED}")
    show("", CHANGE, changed, CHANGED)


if __name__ == "__main__":
    main()
