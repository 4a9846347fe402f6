"""The inner loop: for each batch decode once, for each tower embed, hand over to the store.

Every worker thread decodes and embeds whole batches; torch and the decoders release the GIL. On a CPU that uses all
cores with one intra-op thread each. On a GPU a worker hands its batch to the one thread that launches work, and goes on
to decode the next; the publishing thread waits for the results several batches later.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastclip.data.shards.manifest import Unreadable
from fastclip.data.shards.reader import OpenShard
from fastclip.embed.attempts import Attempts
from fastclip.embed.plan import Unit
from fastclip.errors import FastclipError, IntegrityError, UserError
from fastclip.faults import MachineError, fault
from fastclip.models.numerics import fix_numerics
from fastclip.models.tower import Embedded, ImageTower
from fastclip.pixels.decoder import Decoder, EncodedImage
from fastclip.storage.folders import LocalFolder
from fastclip.store.parts import Part
from fastclip.store.store import Store
from fastclip.threads import is_stop

MOST_LOST_IN_A_ROW = 3
"""Shards that a server may fail to give one after the other: it is patiently asked for each, which takes minutes."""


@dataclass
class StageSeconds:
    """Seconds in each stage, summed over worker threads, for the `images` that went through all of them."""

    images: int = 0
    read: float = 0.0
    decode: float = 0.0
    embed: float = 0.0
    write: float = 0.0


@dataclass(frozen=True)
class _EmbeddedBatch:
    """A batch that a worker hands over: by backbone, a row a real image, on the CPU or on its way there."""

    embedded: Mapping[str, Embedded]
    unreadable: Sequence[Unreadable]
    decode_s: float
    arrive: Callable[[], float]
    """Waits until they are there; the seconds that embedding took."""


@dataclass(frozen=True)
class _OpenUnit:
    """A unit being embedded: its shard, the towers that it owes, and the batches that came back, in order."""

    unit: Unit
    shard: OpenShard
    towers: Mapping[str, ImageTower]
    read_s: float
    done: list[_EmbeddedBatch] = field(default_factory=list)
    failures: list[FastclipError] = field(default_factory=list)
    """Why it cannot be read to its end. It is given up with the first."""


@dataclass
class EmbeddingLoop:
    """Embeds units with `towers` (by backbone) and publishes their parts."""

    towers: Mapping[str, ImageTower]
    make_decoder: Callable[[], Decoder]
    store: Store
    attempts: Attempts
    batch_size: int
    workers: int
    storage: torch.dtype
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    opening: int = 1
    """Shards that are opened at once, each by a thread that reads and hashes it."""
    seconds: StageSeconds = field(default_factory=StageSeconds)
    on_images: Callable[[int], None] = lambda images: None
    """Called with the number of images whenever a batch is embedded."""
    launch: Callable[[Callable[[], Any]], Any] = lambda embed: embed()
    """Calls its argument, on a GPU in the one thread that hands it work."""

    def __post_init__(self) -> None:
        self.failures: list[FastclipError] = []
        self._local = threading.local()
        self._in_flight: deque[tuple[_OpenUnit, Future[_EmbeddedBatch | None]]] = deque()
        self._ahead: deque[Future[_OpenUnit | None]] = deque()
        self._lock = threading.Lock()
        self._lost_in_a_row = 0

    def run(self, units: Iterable[Unit]) -> None:
        """Embed every unit that is not published when its turn comes. Batches never span shards; work in flight does.

        A shard that cannot be read costs the others nothing: its error stands in `failures` afterwards.
        """
        # Each thread is told anew which device it uses and how many threads it has: else it works on the first GPU.
        pool = ThreadPoolExecutor(self.workers, "embed", fix_numerics, (self.device,))
        in_flight = self._in_flight
        stopped = False
        try:
            for opened, first_row in self._batches(units):
                in_flight.append((opened, pool.submit(self._embed, opened, first_row)))
                if len(in_flight) > 3 * self.workers:
                    self._collect(*in_flight.popleft())
            while in_flight:
                self._collect(*in_flight.popleft())
        except BaseException as error:
            stopped = is_stop(error)
            raise
        finally:
            # After a stop signal nobody waits for a batch; after an error nothing is left that still computes.
            pool.shutdown(wait=not stopped, cancel_futures=True)
            if not stopped:
                wait(self._ahead, timeout=60)
            self.attempts.end_all(closed=stopped)

    def _batches(self, units: Iterable[Unit]) -> Iterator[tuple[_OpenUnit, int]]:
        for opened in self._opened(iter(units)):
            for first_row in range(0, opened.unit.shard.images, self.batch_size):
                if not self._owed(opened.unit, opened.towers):
                    self.attempts.end(opened.unit)
                    break  # another process was faster
                if opened.failures:
                    break
                yield opened, first_row

    def _opened(self, units: Iterator[Unit]) -> Iterator[_OpenUnit]:
        """The owed units, the next ones opened while this one is embedded: a slow source then costs no time."""
        self._ahead = deque(_start(self._open_next, units) for _ in range(self.opening))
        while self._ahead:
            if opened := self._next_opened():
                self._ahead.append(_start(self._open_next, units))
                self.seconds.read += opened.read_s
                yield opened

    def _next_opened(self) -> _OpenUnit | None:
        """The first unit that is opened. Meanwhile finished units are published: somebody may wait for them."""
        while not (opened := [each for each in self._ahead if each.done()]):
            oldest: list[Future[Any]] = [future for _, future in self._in_flight][:1]
            wait([*self._ahead, *oldest], return_when=FIRST_COMPLETED)
            if oldest and oldest[0].done():
                self._collect(*self._in_flight.popleft())
        self._ahead.remove(opened[0])
        return opened[0].result()

    def _open_next(self, units: Iterator[Unit]) -> _OpenUnit | None:
        while unit := self._take(units):
            if owed := self._owed(unit, self.towers):
                started = time.perf_counter()
                self.attempts.begin(unit)
                try:
                    shard = OpenShard(unit.folder, unit.shard)
                except (UserError, IntegrityError, MachineError, OSError, MemoryError) as error:
                    self._give_up(unit, error)
                    self._lost_in_a_row += isinstance(error, MachineError) and not isinstance(unit.folder, LocalFolder)
                    if self._lost_in_a_row >= MOST_LOST_IN_A_ROW:
                        raise
                    continue
                self._lost_in_a_row = 0
                return _OpenUnit(unit, shard, owed, time.perf_counter() - started)
        return None

    def _give_up(self, unit: Unit, error: Exception) -> None:
        """Leave a shard that cannot be read, with its error among the failures: the others can be."""
        self.failures.append(_told(unit, error))
        self.attempts.end(unit)

    def _take(self, units: Iterator[Unit]) -> Unit | None:
        with self._lock:
            return next(units, None)

    def _owed(self, unit: Unit, towers: Mapping[str, ImageTower]) -> dict[str, ImageTower]:
        return {
            name: tower
            for name, tower in towers.items()
            if name in unit.recipes and not self.store.has(unit.recipes[name].id, unit.part)
        }

    def _embed(self, opened: _OpenUnit, first_row: int) -> _EmbeddedBatch | None:
        """Decode one batch, once, and embed it with every tower that is owed. Runs in a worker thread.

        None if the shard cannot be read, which stands in its `failures`.
        """
        records = opened.shard.records[first_row : first_row + self.batch_size]
        try:
            images = [
                EncodedImage(opened.shard.image_bytes(first_row + row), record.height, record.width)
                for row, record in enumerate(records)
            ]
        except (FastclipError, OSError) as error:
            opened.failures.append(_told(opened.unit, error))
            return None
        if not hasattr(self._local, "decoder"):
            self._local.decoder = self.make_decoder()
        started = time.perf_counter()
        crops, failed = self._local.decoder.decode(images)
        decoded = time.perf_counter()
        unreadable = [Unreadable(first_row + row, reason) for row, reason in failed]
        if self.device.type == "cuda":
            embedded, arrive = self.launch(lambda: self._launch(opened.towers, crops, len(images)))
            return _EmbeddedBatch(embedded, unreadable, decoded - started, arrive)
        embedded = {name: self._stored(tower(crops[tower.side]), len(images)) for name, tower in opened.towers.items()}
        embed_s = time.perf_counter() - decoded
        return _EmbeddedBatch(embedded, unreadable, decoded - started, lambda: embed_s)

    def _launch(
        self, towers: Mapping[str, ImageTower], crops: Mapping[int, Tensor], images: int
    ) -> tuple[dict[str, Embedded], Callable[[], float]]:
        """Embeddings on their way from a GPU, and a function that waits for them and returns the seconds they took.

        The seconds are the GPU's own: nothing here waits for it, and each batch has its turn as a whole.
        """
        begun, there = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        stream = torch.cuda.current_stream(self.device)  # an event of another GPU would be there at once
        begun.record(stream)
        embedded = {name: self._stored(tower(crops[tower.side]), images) for name, tower in towers.items()}
        there.record(stream)

        def arrive() -> float:
            there.synchronize()
            return begun.elapsed_time(there) / 1000

        return embedded, arrive

    def _stored(self, embedded: Embedded, images: int) -> Embedded:
        """The first `images` rows as parts store them, on the CPU or on their way there."""
        vectors = embedded.vectors[:images].to(self.storage).to("cpu", non_blocking=True)
        return Embedded(vectors, embedded.norms[:images].to("cpu", non_blocking=True))

    def _collect(self, opened: _OpenUnit, future: Future[_EmbeddedBatch | None]) -> None:
        """Take the oldest batch; with the last one of its unit, publish the unit's parts."""
        batch = future.result()
        if batch is None:
            if opened.failures[0] not in self.failures:
                self._give_up(opened.unit, opened.failures[0])
            return
        opened.done.append(batch)
        embed_s = batch.arrive()
        images = len(next(iter(batch.embedded.values())).norms)
        self.on_images(images)
        self.seconds.images += images
        self.seconds.decode += batch.decode_s
        self.seconds.embed += embed_s
        if len(opened.done) * self.batch_size >= opened.unit.shard.images:
            started = time.perf_counter()
            try:
                opened.shard.check_unchanged()
            except (FastclipError, OSError) as error:
                self._give_up(opened.unit, error)
            else:
                for name in opened.towers:
                    self.store.publish(opened.unit.recipes[name], opened.unit.part, self._part(opened, name))
                self.attempts.end(opened.unit)
            self.seconds.write += time.perf_counter() - started

    def _part(self, opened: _OpenUnit, name: str) -> Part:
        embeddings = torch.cat([batch.embedded[name].vectors for batch in opened.done]).numpy()
        norms = torch.cat([batch.embedded[name].norms for batch in opened.done]).numpy()
        unreadable = tuple(row for batch in opened.done for row in batch.unreadable)
        rows = [row for row, _ in unreadable]
        embeddings[rows], norms[rows] = 0, 0
        good = np.isfinite(embeddings).all(axis=1) & np.isfinite(norms) & (norms > 0)
        good[rows] = True
        bad = np.flatnonzero(~good)
        if len(bad):
            record = opened.shard.records[bad[0]]
            raise IntegrityError(
                f"{name} gives no finite embedding for {len(bad)} images of {opened.unit.shard.name}, the first "
                f"{record.key} ({record.path}).",
                fix="Try --precision fp32; if that fails too, the weights are damaged.",
            )
        return Part(embeddings, norms, unreadable)


def _told(unit: Unit, error: Exception) -> FastclipError:
    """`error` as one with the shard's path."""
    return error if isinstance(error, FastclipError) else fault(error, f"{unit.folder}/{unit.shard.name}")


def _start(function: Callable[[Iterator[Unit]], _OpenUnit | None], units: Iterator[Unit]) -> Future[_OpenUnit | None]:
    """`function(units)` in a thread that does not keep the program alive: Ctrl-C waits for no download."""
    future: Future[_OpenUnit | None] = Future()

    def run() -> None:
        try:
            future.set_result(function(units))
        except BaseException as error:  # it belongs to whoever waits for the result
            future.set_exception(error)

    threading.Thread(target=run, name="open", daemon=True).start()
    return future
