"""Loads batches of crops from shards, at random: the same pixels for a batch on any number of cores.

DALI sends a batch with an odd image to the CPU's decoder as a whole. There an image's pixels depend, by a fraction of a
grey level, on the images beside it: training bears that, and embeddings are not made here.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from threading import local
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from fastclip.finetune.kept import KeptCrops, on_device
from fastclip.finetune.samples import Samples, copy_numbers
from fastclip.finetune.tars import Tars
from fastclip.finetune.views import View, Views
from fastclip.pixels.decoder import Decoder, EncodedImage
from fastclip.pixels.decoders import make_decoder
from fastclip.threads import threads

Rows = Int64[np.ndarray, " batch"]

CHUNK = {"torchvision": 8, "dali": 64}
"""Images that a thread decodes in one go. Few keep all cores busy to the end of a batch; DALI is faster with many."""
DALI_WORKERS = 3
"""Threads that each feed a DALI of their own: while one waits for the GPU, the others go on."""
AHEAD = 3
"""Batches that are decoded while a GPU computes."""


class LoadedBatch(NamedTuple):
    """Crops and labels on the device that computes. Crops of unreadable images are zero."""

    crops: UInt8[Tensor, "batch 3 side side"]
    labels: Int64[Tensor, " batch"]
    rows: Rows
    """The images' numbers in the samples."""
    unreadable: list[tuple[int, str]]
    """Numbers of images without pixels, each once, and why."""
    decode_s: float
    """Seconds of reading and decoding, summed over threads."""
    wait_s: float
    """Seconds in which the caller waited for it."""


class _Pending(NamedTuple):
    """A batch whose images are being decoded, all but those that are kept."""

    rows: Rows
    missing: Int64[np.ndarray, " missing"]
    crops: UInt8[Tensor, "missing side side 3"]
    pieces: list[Future[tuple[dict[int, str], float]]]


class Loader:
    """Loads batches of `samples`. A context manager: its threads live in the block."""

    def __init__(
        self,
        samples: Samples,
        *,
        side: int,
        device: torch.device,
        decoder: str,
        cores: int,
        crop: float | None,
        flip: bool,
        seed: int,
        keep_bytes: int,
        tars: Tars | None = None,
    ) -> None:
        """Images have random views where `crop` or `flip` says so: see `Views`.

        Else they look the same in every epoch, and as many as go into `keep_bytes` of the device's memory are decoded
        once. Loaders of images of the same shards should share their `tars`: each shard is then hashed once.
        """
        self._samples = samples
        self._side = side
        self._device = device
        self._decoder = decoder
        # torchvision's decoders use one thread each, DALI's as many as they get.
        self._workers = cores if decoder == "torchvision" else DALI_WORKERS
        self._threads_of_a_decoder = max(1, cores // self._workers)
        self._ahead = AHEAD if device.type == "cuda" else 0
        self._views = Views(crop, flip, seed)
        self._copies = copy_numbers(samples.digests)
        self._kept = KeptCrops(0 if self._views.random else keep_bytes // (3 * side**2), len(samples))
        self._tars = tars or Tars(samples.sources)
        self._unreadable: dict[int, str] = {}
        self._local = local()
        self._stack = ExitStack()

    def __enter__(self) -> Loader:
        # The workers ask torch for one core each, and torch takes that for the wish of every later thread.
        self._stack.callback(torch.set_num_threads, torch.get_num_threads())
        workers = threads(self._workers, "load", _compute_alone, (self._device,))
        self._pool: ThreadPoolExecutor = self._stack.enter_context(workers)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, at)

    def load(self, rows: Rows, epoch: int) -> LoadedBatch:
        """The images of these numbers, decoded now by all cores."""
        return self._finish(self._start(rows, epoch))

    def ahead(self, wanted: Iterable[tuple[Int64[np.ndarray, " _"], int]]) -> Iterator[LoadedBatch]:
        """The batches of (numbers, epoch), in order. For a GPU the next ones are decoded while the caller computes."""
        pending: deque[_Pending] = deque()
        for rows, epoch in wanted:
            pending.append(self._start(rows, epoch))
            if len(pending) > self._ahead:
                yield self._finish(pending.popleft())
        while pending:
            yield self._finish(pending.popleft())

    def check_unchanged(self) -> None:
        """Raise `IntegrityError` if a shard's bytes changed since it was opened. Call it before results count."""
        self._tars.check_unchanged()

    def _start(self, rows: Rows, epoch: int) -> _Pending:
        missing = self._kept.missing(rows)
        crops = torch.empty(len(missing), self._side, self._side, 3, dtype=torch.uint8, device=self._device)
        chunk = CHUNK[self._decoder]
        pieces = [
            self._pool.submit(self._decode, rows[missing[at : at + chunk]], epoch, crops[at : at + chunk])
            for at in range(0, len(missing), chunk)
        ]
        return _Pending(rows, missing, crops, pieces)

    def _finish(self, pending: _Pending) -> LoadedBatch:
        started = time.perf_counter()
        rows, missing, crops, _ = pending
        pieces = [piece.result() for piece in pending.pieces]
        for unreadable, _ in pieces:
            self._unreadable |= unreadable
        self._kept.keep(rows[missing], crops)
        crops = self._kept.filled_up(rows, missing, crops)
        once = dict.fromkeys(rows.tolist())
        return LoadedBatch(
            crops=crops.permute(0, 3, 1, 2),
            labels=on_device(self._samples.labels[rows], self._device),
            rows=rows,
            unreadable=[(row, self._unreadable[row]) for row in once if row in self._unreadable],
            decode_s=sum(seconds for _, seconds in pieces),
            wait_s=time.perf_counter() - started,
        )

    def _decode(
        self, rows: Int64[np.ndarray, " chunk"], epoch: int, crops: UInt8[Tensor, "chunk side side 3"]
    ) -> tuple[dict[int, str], float]:
        """Decode images into `crops`; why some have no pixels, and the seconds. Runs in a worker thread."""
        started = time.perf_counter()
        if not hasattr(self._local, "decoder"):
            self._local.decoder = self._make_decoder()
        numbers = rows.tolist()
        views = [self._view(number, epoch) for number in numbers]
        images = [self._encoded(number, view) for number, view in zip(numbers, views, strict=True)]
        decoded = self._local.decoder.decode(images)
        if decoded.unreadable:
            self._tars.check_unchanged()  # their bytes may be no longer those that were sharded
        crops[:] = decoded.crops[self._side][: len(rows)].permute(0, 2, 3, 1)
        for at, view in enumerate(views):
            if view.flipped:
                crops[at] = crops[at].flip(1)
        return {numbers[row]: reason for row, reason in decoded.unreadable}, time.perf_counter() - started

    def _make_decoder(self) -> Decoder:
        chunk = CHUNK[self._decoder]
        return make_decoder(self._decoder, [self._side], chunk, self._device, self._threads_of_a_decoder)

    def _view(self, number: int, epoch: int) -> View:
        height, width = self._samples.shapes[number].tolist()
        digest = bytes(self._samples.digests[number])
        return self._views.view(epoch, digest, int(self._copies[number]), height, width)

    def _encoded(self, number: int, view: View) -> EncodedImage:
        offset, size = self._samples.spans[number].tolist()
        data = self._tars.read(int(self._samples.source[number]), offset, size)
        height, width = self._samples.shapes[number].tolist()
        return EncodedImage(data, height, width, view.region)


def _compute_alone(device: torch.device) -> None:
    """Make this thread compute on one core, and on no other process's GPU."""
    torch.set_num_threads(1)
    if device.type == "cuda":
        torch.cuda.set_device(device)
