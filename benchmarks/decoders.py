"""Every decoder by itself: photos a second, and how far its crops are from those of CLIP's own preprocessing.

    .venv/bin/python benchmarks/decoders.py --photos DIR [--images 2000] [--device cuda]

As many threads as there are cores, each with a decoder of its own, as in an evaluation. Differences are in grey levels,
against Pillow with the transform that CLIP came with: the mean of all photos, and the worst photo's.
"""

from __future__ import annotations

import io
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from common import keep, parser
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from fastclip.bench.records import Measurement, measurement
from fastclip.machine import available_cores, keep_freed_memory
from fastclip.pixels import dali
from fastclip.pixels.decoder import DecodedBatch, Decoder, EncodedImage
from fastclip.pixels.decoders import make_decoder

SIDES = (224, 288, 336, 384, 448)


class Pillow:
    """CLIP's own preprocessing. `scaled`: libjpeg decodes at half the size or less where the crop needs no more."""

    def __init__(self, sides: Sequence[int], *, scaled: bool = False) -> None:
        self._crops = {side: Compose([Resize(side, InterpolationMode.BICUBIC), CenterCrop(side)]) for side in sides}
        self._scaled = scaled

    def decode(self, images: Sequence[EncodedImage]) -> DecodedBatch:
        opened = []
        for image in images:
            file = Image.open(io.BytesIO(image.data))
            if self._scaled:
                factor = max(self._crops) / min(file.size)
                file.draft("RGB", (round(file.width * factor), round(file.height * factor)))
            opened.append(file.convert("RGB"))
        crops = {}
        for side, crop in self._crops.items():
            arrays = [np.asarray(crop(image)) for image in opened]
            crops[side] = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
        return DecodedBatch(crops, [])


def photos_of(folder: Path, size_factor: int) -> list[EncodedImage]:
    """The photos; `size_factor` times as large, saved anew, where that is not 1."""
    found = []
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        data = path.read_bytes()
        image = Image.open(io.BytesIO(data))
        if size_factor > 1:
            image = image.convert("RGB").resize((image.width * size_factor, image.height * size_factor))
            file = io.BytesIO()
            image.save(file, "JPEG", quality=90)
            data = file.getvalue()
        found.append(EncodedImage(memoryview(bytearray(data)), image.height, image.width))
    return found


def rate(
    make: Callable[[], Decoder], batches: Sequence[Sequence[EncodedImage]], workers: int, rounds: int
) -> list[float]:
    """Seconds for all batches, round by round."""
    local = threading.local()

    def decode(batch: Sequence[EncodedImage]) -> None:
        if not hasattr(local, "decoder"):
            local.decoder = make()
        local.decoder.decode(batch)

    seconds = []
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(decode, batches[: 2 * workers]))  # the first batch of a thread takes longer
        for _ in range(rounds):
            started = time.perf_counter()
            list(pool.map(decode, batches))
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    return seconds


def differences(decoder: Decoder, images: Sequence[EncodedImage], side: int, batch: int) -> tuple[float, float]:
    """Mean of all photos' mean differences from Pillow's crops, and the largest."""
    reference, found = Pillow([side]), []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        theirs = reference.decode(part).crops[side].numpy().astype(np.int16)
        ours = decoder.decode(part).crops[side][: len(part)].cpu().numpy()
        found += list(np.abs(ours - theirs).mean(axis=(1, 2, 3)))
    return float(np.mean(found)), float(np.max(found))


def measure(
    what: dict[str, object],
    make: Callable[[Sequence[int]], Decoder],
    images: list[EncodedImage],
    count: int,
    rounds: int,
    workers: int,
    batch: int,
    sides: Sequence[int],
) -> Measurement:
    """One decoder at some setting."""
    pool = list(itertools.islice(itertools.cycle(images), count))
    batches = [pool[start : start + batch] for start in range(0, count, batch)]
    seconds = rate(lambda: make(sides), batches, workers, rounds)
    mean, worst = differences(make([sides[0]]), images, sides[0], batch)
    settings = {
        "program": "decoders.py", **what, "sides": " ".join(map(str, sides)), "workers": workers, "batch": batch,
        "mean difference": f"{mean:.3f}", "worst photo": f"{worst:.2f}",
    }  # fmt: skip
    return measurement("decode", count, seconds, settings)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=2000)
    options.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options.add_argument("--huge", action="store_true", help="also photos four times as high and wide, at one side")
    arguments = options.parse_args()
    keep_freed_memory()
    device, cores = torch.device(arguments.device), available_cores()
    images = photos_of(arguments.photos, 1)
    found = []

    def add(what: dict[str, object], make: Callable[[Sequence[int]], Decoder], **changed: object) -> None:
        usual: dict[str, object] = {"images": images, "count": arguments.images, "rounds": arguments.rounds}
        usual |= {"workers": cores, "batch": 32, "sides": SIDES[:1]}
        found.append(measure({"device": arguments.device, **what}, make, **{**usual, **changed}))  # type: ignore[arg-type]
        keep(found[-1:], arguments.device)

    if arguments.device == "cuda":
        add({"decoder": "torchvision"}, lambda sides: make_decoder("torchvision", sides, 256, device, 1), batch=256)
        for load, threads, batch in itertools.product((0.0, 0.65, 0.9, 1.0), (2, 5), (128, 256)):

            def mixed(sides: Sequence[int], load: float = load, threads: int = threads, batch: int = batch) -> Decoder:
                return dali.DaliDecoder(sides, batch, device, threads, hardware_load=load)

            what = {"decoder": "dali mixed", "hardware load": load, "threads": threads}
            try:
                add(what, mixed, workers=3, batch=batch)
            except RuntimeError as error:
                print(f"{what}: {error}")
        add(
            {"decoder": "dali mixed"},
            lambda sides: make_decoder("dali", sides, 256, device, 5),
            workers=3,
            batch=256,
            sides=SIDES,
        )
        return
    for sides in (SIDES[:1], SIDES):
        for name in ("torchvision", "dali"):
            add({"decoder": name}, lambda sides, name=name: make_decoder(name, sides, 32, device, 1), sides=sides)
        add({"decoder": "Pillow"}, Pillow, sides=sides)
    if arguments.huge:
        huge = {"images": photos_of(arguments.photos, 4)[:50], "count": arguments.images // 10}
        for name in ("torchvision", "dali"):
            add({"decoder": f"{name}, huge"}, lambda sides, name=name: make_decoder(name, sides, 32, device, 1), **huge)
        add({"decoder": "Pillow, huge"}, Pillow, **huge)
        add({"decoder": "Pillow at a reduced scale, huge"}, lambda sides: Pillow(sides, scaled=True), **huge)


if __name__ == "__main__":
    main()
