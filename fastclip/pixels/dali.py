"""DALI decoder: the same pipeline on a GPU (`mixed`, nvJPEG) and on a CPU, fed from our own reader.

Where a region is asked for, DALI's filter sees the pixels beside it, which a crop cuts away. That moves the outermost
pixels by about one grey level and the whole by 0.15 to 0.20, no more than CLIP's own crop: 100 photos, sides 64 to 336.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from nvidia.dali import Pipeline, fn, types
from torch import Tensor

from fastclip.pixels.decoder import HARDWARE_LOAD, DecodedBatch, EncodedImage, check_encoded
from fastclip.pixels.geometry import as_starts_and_ends, crop_region
from fastclip.pixels.torchvision import TorchvisionDecoder


class DaliDecoder:
    """See `fastclip.pixels.decoder.Decoder`."""

    def __init__(
        self,
        sides: Sequence[int],
        batch_size: int,
        device: torch.device,
        threads: int,
        *,
        hardware_load: float = HARDWARE_LOAD,
    ) -> None:
        self._sides = sides
        self._batch_size = batch_size
        self._device = device
        self._threads = threads
        self._hardware_load = hardware_load
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        self._one_by_one = TorchvisionDecoder(sides, batch_size, device)
        self._pipeline = self._build()

    def decode(self, images: Sequence[EncodedImage]) -> DecodedBatch:
        """Decode the batch in one run of the pipeline. If any image is odd, or DALI refuses it, all go to the CPU.

        A batch is never split: the route of an image then depends on the shard's bytes alone.
        """
        if not all(may_be_decoded(image, on_gpu=self._stream is not None) for image in images):
            return self._one_by_one.decode(images)
        try:
            self._feed(self._filled_up(images))
            return DecodedBatch(self._crops(self._pipeline.run(), len(images)), [])
        except RuntimeError as error:
            # In the message paths of files come before the reason, and names of functions after it.
            reason = str(error).rpartition("encountered:")[2].partition("Stacktrace")[0]
            if re.search(r"cuda|memory|alloc", reason, re.IGNORECASE):
                raise  # a fault of the machine must not change the pixels of a shard
            self._pipeline = self._build()  # after an error DALI declares a pipeline invalid
            return self._one_by_one.decode(images)

    def _filled_up(self, images: Sequence[EncodedImage]) -> Sequence[EncodedImage]:
        """`images`, filled up to a whole batch where the JPEG engine decodes a part of it.

        The engine takes as many of every batch as of the first one that a decoder sees. With full batches alone this
        does not depend on which batch came first.
        """
        missing = self._batch_size - len(images) if self._stream and self._hardware_load else 0
        return [*images, *[images[-1]] * missing]

    def _feed(self, images: Sequence[EncodedImage]) -> None:
        self._pipeline.feed_input("encoded", [np.frombuffer(image.data, np.uint8) for image in images])
        for side in self._sides:
            start, end = as_starts_and_ends(
                [image.region or crop_region(image.height, image.width, side) for image in images]
            )
            self._pipeline.feed_input(f"start{side}", np.ascontiguousarray(start))
            self._pipeline.feed_input(f"end{side}", np.ascontiguousarray(end))

    def _crops(self, outputs: Sequence[Any], count: int) -> dict[int, UInt8[Tensor, "batch 3 side side"]]:
        """The first `count` rows of DALI's batches [n, side, side, 3] as padded channels-last tensors.

        They are copies, because DALI fills its buffers again. On a GPU the copying runs beside the towers' work.
        """
        if self._stream is None:
            return {side: self._padded(output, count) for side, output in zip(self._sides, outputs, strict=True)}
        with torch.cuda.stream(self._stream):
            crops = {side: self._padded(output, count) for side, output in zip(self._sides, outputs, strict=True)}
            copied = self._stream.record_event()
        for batch in crops.values():
            batch.record_stream(torch.cuda.current_stream(self._device))
        copied.synchronize()
        return crops

    def _padded(self, output: Any, count: int) -> UInt8[Tensor, "batch 3 side side"]:
        found = torch.from_dlpack(output.as_tensor())[:count]
        batch = torch.zeros((self._batch_size, *found.shape[1:]), dtype=torch.uint8, device=self._device)
        batch[:count] = found
        return batch.permute(0, 3, 1, 2)

    def _build(self) -> Pipeline:
        on_gpu = self._device.type == "cuda"
        pipeline = Pipeline(
            batch_size=self._batch_size,
            num_threads=self._threads,
            device_id=(self._device.index or 0) if on_gpu else None,
            exec_pipelined=False,
            exec_async=False,
            prefetch_queue_depth=1,
        )
        with pipeline:
            pipeline.set_outputs(*_crops_of_every_side(self._sides, on_gpu, self._hardware_load))
        pipeline.build()
        return pipeline


def may_be_decoded(image: EncodedImage, *, on_gpu: bool) -> bool:
    """Whether DALI shows the image as Pillow does, or reports that it cannot; else the CPU's decoder takes it."""
    try:
        header = check_encoded(image)
        if header.odd or (on_gpu and header.odd_on_gpu):
            return False
    except ValueError:
        return False
    # nvJPEG does not promise to report a file that ends too soon.
    return not on_gpu or image.data[:2] != b"\xff\xd8" or b"\xff\xd9" in bytes(image.data[-4096:])


def _crops_of_every_side(sides: Sequence[int], on_gpu: bool, hardware_load: float) -> list[Any]:
    """The graph: one decode, one resize of the region that CLIP keeps for each side."""
    encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1, no_copy=True)
    # CLIP's own preprocessing does not rotate by EXIF; DALI would.
    # Fancy upsampling is what libjpeg does; without it nvJPEG's 4:2:0 chroma differs from the CPU's.
    images = fn.decoders.image(
        encoded,
        device="mixed" if on_gpu else "cpu",
        output_type=types.RGB,
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,
        hw_decoder_load=hardware_load,
    )
    return [
        fn.resize(
            images,
            size=[side, side],
            roi_start=fn.external_source(name=f"start{side}", dtype=types.FLOAT, ndim=1),
            roi_end=fn.external_source(name=f"end{side}", dtype=types.FLOAT, ndim=1),
            interp_type=types.INTERP_CUBIC,
            antialias=True,
        )
        for side in sides
    ]
