"""Images that hurt: each is refused in the same words wherever it is met, costs nothing, and harms no other image."""

from __future__ import annotations

import functools
import io
import json
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import REPOSITORY, Sharded, image_bytes, recipe, refusal
from PIL import Image, ImageFile
from test_pixels import picture, reference, save

from fastclip.data.image_headers import MAX_PIXELS, MAX_SCANS, check_header
from fastclip.data.images import read_header
from fastclip.data.shards.manifest import read_manifest
from fastclip.embed.attempts import Attempts
from fastclip.embed.loop import EmbeddingLoop
from fastclip.embed.plan import Unit
from fastclip.errors import IntegrityError
from fastclip.models.tower import Embedded, ImageTower
from fastclip.pixels.decoder import Decoder, EncodedImage
from fastclip.pixels.decoders import make_decoder
from fastclip.pixels.geometry import crop_region
from fastclip.store.parts import part_name
from fastclip.store.store import Store

CPU = torch.device("cpu")
DECODERS = ("torchvision", "dali")
SIDE = 32
BATCH = 6


def offered(data: bytes) -> EncodedImage:
    """An image as a shard offers it: with the size in its header, or any where it has none."""
    try:
        _, height, width = read_header(data)
    except ValueError:
        height, width = 40, 56
    return EncodedImage(memoryview(bytearray(data)), height, width)


def jpeg_of_scans(count: int, *, side: int = 64, hidden: bool = False) -> bytes:
    """A progressive JPEG whose last scan is repeated until there are `count`."""
    data = save(picture(side, side), "JPEG", progressive=True)
    starts = [found.start() for found in re.finditer(rb"\xff\xda", data)]
    last, end = data[starts[-1] : -2], data[-2:]
    data = data[:-2] + last * (count - len(starts)) + end
    # A mark that looks like the end of the image, in a comment behind the frame header, must not end the count.
    frame = data.index(b"\xff\xc2") + 2
    comment = frame + int.from_bytes(data[frame : frame + 2], "big")
    return data[:comment] + b"\xff\xfe\x00\x04\xff\xd9" + data[comment:] if hidden else data


def sequential_jpeg_of_scans(count: int) -> bytes:
    """A JPEG that is not progressive: a scan a component, over and over. An empty scan is grey, and ten bytes long."""
    whole = save(picture(64, 64), "JPEG", subsampling=0)
    head = whole[: whole.index(b"\xff\xda")]
    scans = (struct.pack(">HHBBBBBB", 0xFFDA, 8, 1, c, 0x11 if c > 1 else 0, 0, 63, 0) for c in (1, 2, 3))
    return head + (b"".join(scans) * count)[: count * 10] + b"\xff\xd9"


def resized_header(jpeg: bytes, height: int, width: int) -> bytes:
    """The same file, saying that it is larger: decoders believe it and fill up what is missing."""
    frame = re.search(rb"\xff[\xc0\xc2]\x00", jpeg)
    assert frame
    return jpeg[: frame.start() + 5] + struct.pack(">HH", height, width) + jpeg[frame.start() + 9 :]


@functools.cache
def png_of(height: int, width: int) -> bytes:
    return save(Image.new("1", (width, height)), "PNG")


def webp_of(height: int, width: int) -> bytes:
    """A WebP whose canvas is that large, by its header. Pillow makes room for all of it to open the file."""
    body = save(picture(8, 8), "WEBP", lossless=True)[12:]
    canvas = (
        b"VP8X" + struct.pack("<IB3x", 10, 0) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    )
    return b"RIFF" + struct.pack("<I", 4 + len(canvas) + len(body)) + b"WEBP" + canvas + body


TOO_LARGE = "20000 × 20000 pixels, more than the budget of 67,108,864"
TOO_MANY = f"more than {MAX_SCANS} scans: decoding this JPEG would take too long"

HURTFUL: dict[str, tuple[Callable[[], bytes], str]] = {
    "truncated JPEG": (lambda: save(picture(40, 56), "JPEG")[:-200], "does not decode: image file is truncated"),
    "truncated progressive JPEG": (
        lambda: save(picture(40, 56), "JPEG", progressive=True)[:-200],
        "does not decode: image file is truncated",
    ),
    "truncated PNG": (lambda: save(picture(40, 56), "PNG")[:-200], "does not decode: image file is truncated"),
    "truncated WebP": (lambda: save(picture(40, 56), "WEBP")[:-200], "does not decode: "),
    "header alone": (lambda: save(picture(40, 56), "JPEG")[:160], "does not decode: its header gives no size"),
    "two bytes": (lambda: b"\xff\xd8", "not an image of a known format: it starts with b'\\xff\\xd8'"),
    "empty": (lambda: b"", "empty file"),
    "web page": (lambda: b"<html>404</html>", "not an image but a web page"),
    "JPEG 2000, which DALI decodes": (lambda: image_bytes("JPEG2000"), "JPEG 2000, which is not decoded"),
    "16 bits": (lambda: image_bytes(mode="I;16"), "16 bits a channel"),
    "PNG bomb": (lambda: png_of(20_000, 20_000), TOO_LARGE),
    "PNG beyond Pillow's own limit": (lambda: png_of(1, 2**28), "268435456 × 1 pixels, more than the budget"),
    "JPEG bomb": (lambda: resized_header(image_bytes("JPEG"), 20_000, 20_000), TOO_LARGE),
    "WebP bomb": (lambda: webp_of(20_000, 20_000), TOO_LARGE),
    "JPEG of no height": (lambda: resized_header(image_bytes("JPEG"), 0, 9), "does not decode: its header gives no"),
    "10,000 progressive scans": (lambda: jpeg_of_scans(10_000), TOO_MANY),
    "10,000 scans behind a false end": (lambda: jpeg_of_scans(10_000, hidden=True), TOO_MANY),
    "10,000 sequential scans": (lambda: sequential_jpeg_of_scans(10_000), TOO_MANY),
}


@functools.cache
def good() -> list[EncodedImage]:
    """Five images that are all different."""
    pictures = [picture(40 + 9 * n, 90 - 7 * n) for n in range(5)]
    formats = ("JPEG", "PNG", "WEBP", "JPEG", "PNG")
    return [offered(save(image, format)) for image, format in zip(pictures, formats, strict=True)]


@pytest.fixture(scope="module", params=DECODERS)
def decoder(request: pytest.FixtureRequest) -> Decoder:
    """One for all tests, as one serves a whole run: what any image does to it is seen by the next test."""
    return make_decoder(request.param, [SIDE], BATCH, CPU, 1)


@functools.cache
def crops_of_good(name: str) -> torch.Tensor:
    """The good images, decoded by a decoder that never met a bad one."""
    return make_decoder(name, [SIDE], BATCH, CPU, 1).decode(good()).crops[SIDE]


@pytest.mark.parametrize("kind", HURTFUL)
def test_what_hurts_is_named_with_its_reason_and_the_rest_of_the_batch_is_the_same_to_the_bit(
    kind: str, decoder: Decoder
):
    make, words = HURTFUL[kind]
    bad = offered(make())
    reason = refusal(bytes(bad.data))
    assert reason.startswith(words), reason
    name = type(decoder).__name__.removesuffix("Decoder").lower()
    for where in ([0], [2], [4], [0, 1, 2, 3, 4]):
        batch = [bad if row in where else image for row, image in enumerate(good())]
        decoded = decoder.decode(batch)
        assert [(row, why) for row, why in decoded.unreadable] == [(row, reason) for row in where]
        crops = decoded.crops[SIDE]
        assert not crops[where].any() and not crops[len(batch) :].any()
        # A batch in which anything fails goes through torchvision, whole, whatever the decoder.
        rest = [row for row in range(5) if row not in where]
        assert torch.equal(crops[rest], crops_of_good("torchvision")[rest])
        following = decoder.decode(good())
        assert following.unreadable == [] and torch.equal(following.crops[SIDE], crops_of_good(name))


CUT = {
    "JPEG": lambda: save(picture(40, 56), "JPEG"),
    "grey JPEG with restarts": lambda: save(picture(40, 56).convert("L"), "JPEG", restart_marker_blocks=4),
    "progressive": lambda: save(picture(40, 56), "JPEG", progressive=True),
    "PNG": lambda: save(picture(40, 56), "PNG"),
    "palette": lambda: save(picture(40, 56).convert("P"), "PNG"),
    "WebP": lambda: save(picture(40, 56), "WEBP"),
    "lossless WebP": lambda: save(picture(40, 56), "WEBP", lossless=True),
    "GIF": lambda: save(picture(40, 56).convert("P"), "GIF"),
    "BMP": lambda: save(picture(40, 56), "BMP"),
    "TIFF": lambda: save(picture(40, 56), "TIFF"),
    "TIFF in LZW": lambda: save(picture(40, 56), "TIFF", compression="tiff_lzw"),
    "TIFF in JPEG": lambda: save(picture(40, 56), "TIFF", compression="jpeg"),
    "TIFF of a fax": lambda: save(picture(40, 56).convert("1"), "TIFF", compression="group4"),
    "PPM": lambda: save(picture(40, 56), "PPM"),
    "AVIF": lambda: save(picture(40, 56), "AVIF"),
}


@pytest.mark.parametrize("kind", CUT)
def test_a_file_cut_anywhere_has_the_same_verdict_at_sharding_and_by_both_decoders(kind: str):
    whole = CUT[kind]()
    machines = {name: make_decoder(name, [SIDE], 1, CPU, 1) for name in DECODERS}
    taken = 0
    for cut in sorted({*range(0, len(whole), len(whole) // 12), *range(len(whole) - 28, len(whole), 3)}):
        image = EncodedImage(memoryview(bytearray(whole[:cut])), 40, 56)
        reason = refusal(whole[:cut])
        for name, machine in machines.items():
            decoded = machine.decode([image])
            assert [why for _, why in decoded.unreadable] == ([reason] if reason else []), (name, cut - len(whole))
            if not reason:  # only the checksum or the end mark is gone; that is an image for Pillow too
                taken += 1
                assert np.abs(decoded.crops[SIDE][0].numpy() - reference(whole, SIDE).astype(int)).mean() < 0.5
    assert bool(taken) == (kind in ("PNG", "palette", "GIF", "TIFF of a fax"))


STRIPS = {
    "1x1": lambda: save(picture(1, 1), "JPEG"),
    "65,500 wide": lambda: save(picture(1, 65_500), "JPEG"),
    "65,500 high": lambda: save(picture(65_500, 2), "JPEG"),
    "1,000,000 wide": lambda: save(picture(1, 1_000_000), "PNG"),
    "1,000,000 high": lambda: save(picture(1_000_000, 1), "PNG"),
    "16,383 wide": lambda: save(picture(3, 16_383), "WEBP", lossless=True),
}


@pytest.mark.parametrize("kind", STRIPS)
def test_strips_are_images_like_others(kind: str, decoder: Decoder):
    data = STRIPS[kind]()
    strip = offered(data)
    assert refusal(data) == ""
    decoded = decoder.decode([good()[0], strip, good()[1]])
    assert decoded.unreadable == []
    # Pillow, of the region that CLIP keeps: a resize of the whole strip to 32 million pixels is what must not happen.
    top, left, bottom, right = crop_region(strip.height, strip.width, SIDE)
    expected = Image.open(io.BytesIO(data)).convert("RGB").resize((SIDE, SIDE), 3, box=(left, top, right, bottom))
    difference = decoded.crops[SIDE][1].numpy().transpose(1, 2, 0) - np.asarray(expected).astype(int)
    assert np.abs(difference).mean() <= 1.0
    if isinstance(decoder, type(make_decoder("torchvision", [SIDE], 1, CPU, 1))):
        assert torch.equal(decoded.crops[SIDE][[0, 2]], crops_of_good("torchvision")[[0, 1]])


def test_as_many_scans_as_allowed_are_decoded_and_what_only_looks_like_scans_is_not_counted(decoder: Decoder):
    comment = b"\xff\xfe" + struct.pack(">H", 2 + 4000) + b"\xff\xda\x00\x02" * 1000
    for data in (
        jpeg_of_scans(MAX_SCANS),
        jpeg_of_scans(12, hidden=True),
        *(
            save(picture(64, 64), "JPEG", progressive=p)[:2] + comment + save(picture(64, 64), "JPEG")[2:]
            for p in (0, 1)
        ),
        save(picture(64, 64), "JPEG", progressive=True) + comment,  # behind the end lie films, of some telephones
    ):
        assert refusal(data) == ""
        decoded = decoder.decode([offered(data)])
        assert decoded.unreadable == []
        assert np.abs(decoded.crops[SIDE][0].numpy() - reference(data, SIDE).astype(int)).mean() < 0.5
    assert refusal(jpeg_of_scans(MAX_SCANS + 1)) == TOO_MANY


def test_thousands_of_scans_over_millions_of_pixels_are_refused_before_the_first(decoder: Decoder):
    """Decoded, either file would hold a core for minutes; also where headers alone are read."""
    for scans in (jpeg_of_scans(10_000), sequential_jpeg_of_scans(10_000)):
        data = resized_header(scans, 8192, 8192)
        assert refusal(data) == TOO_MANY
        with pytest.raises(ValueError, match="scans"):
            read_header(data)
        assert decoder.decode([EncodedImage(memoryview(bytearray(data)), 8192, 8192)]).unreadable == [(0, TOO_MANY)]


LIES = {"a bomb passes for small": (20_000, 10), "small passes for large": (10, 20), "no height": (10, 0)}


@pytest.mark.parametrize("case", LIES)
def test_an_index_that_lies_about_a_size_hides_no_bomb_and_moves_no_crop(case: str, decoder: Decoder):
    truth, said = LIES[case]
    lying = EncodedImage(memoryview(bytearray(png_of(truth, truth))), said, said)
    decoded = decoder.decode([good()[0], lying])
    (bad,) = decoded.unreadable
    assert bad.row == 1
    assert bad.reason == (
        TOO_LARGE if truth > 10 else f"10 × 10 pixels by its header, {said} × {said} by the shard's index"
    )
    assert torch.equal(decoded.crops[SIDE][0], crops_of_good("torchvision")[0])


def test_the_size_in_a_header_is_the_size_that_pillow_sees(photos: list[Path]):
    for path in photos[::4]:
        with Image.open(path) as image:
            assert check_header(path.read_bytes()) == ("jpg", image.height, image.width, False, False)


IN_A_CHILD = """
import json, resource, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from test_hurtful_images import CPU, SIDE, make_decoder, EncodedImage, offered, picture, refusal, save

def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

machine = make_decoder(sys.argv[2], [SIDE], 2, CPU, 1)
machine.decode([offered(save(picture(300, 300), format)) for format in ("JPEG", "PNG")])
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (2 << 30),) * 2)
grown, reasons = {}, {}
for path in sys.argv[3:]:
    before, data = peak_mib(), Path(path).read_bytes()
    why = refusal(data)
    reasons[path] = [why, *(reason for _, reason in machine.decode([offered(data)]).unreadable)]
    grown[path] = peak_mib() - before
print(json.dumps([grown, reasons]))
"""


@pytest.mark.parametrize("name", ["torchvision", pytest.param("dali", marks=pytest.mark.slow)])
def test_bombs_above_the_budget_take_no_memory_and_those_just_below_a_bounded_amount(name: str, tmp_path: Path):
    """In a process that may take 2 GiB more than it has: a bomb of 20,000 × 20,000 pixels alone would take 1.2."""
    above = {
        "above.png": png_of(8192, 8193),
        "bomb.png": png_of(20_000, 20_000),
        "above.jpg": resized_header(image_bytes("JPEG"), 8193, 8192),
        "bomb.jpg": resized_header(jpeg_of_scans(12), 65_535, 65_535),
        "bomb.webp": webp_of(16_384, 16_384),
    }
    below = {
        "below.png": png_of(8192, 8192),
        "below.jpg": resized_header(sequential_jpeg_of_scans(3), 8192, 8192),
    }
    assert MAX_PIXELS == 8192 * 8192
    for file, data in {**above, **below}.items():
        (tmp_path / file).write_bytes(data)
    command = [sys.executable, "-c", IN_A_CHILD, REPOSITORY / "tests", name, *above, *below]
    done = subprocess.run([str(word) for word in command], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    grown, reasons = json.loads(done.stdout)
    for file in above:  # in this order: a peak only rises
        assert "more than the budget" in reasons[file][0] and reasons[file] == reasons[file][:1] * 2, reasons
        assert grown[file] < 64, grown
    for file in below:
        assert reasons[file] == [""], reasons
        assert grown[file] < 1024, grown


def test_half_an_image_never_passes_for_a_whole_one():
    """Pillow's switch for that is global: whoever sets it changes what is unreadable, everywhere."""
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    users = [path for path in (REPOSITORY / "fastclip").rglob("*.py") if "LOAD_TRUNCATED" in path.read_text("utf-8")]
    assert users == []


class NotFinite(ImageTower):
    """Gives one image of each batch a number that is none."""

    def __init__(self, number: float) -> None:
        self.side, self.number = 64, number

    def __call__(self, crops: torch.Tensor) -> Embedded:
        embeddings = torch.ones(len(crops), 3)
        embeddings[1, 2] = self.number
        return Embedded(embeddings, torch.ones(len(crops)))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_an_embedding_that_is_not_finite_is_an_error_that_names_the_image_and_is_not_published(
    number: float, shapes: Sharded, tmp_path: Path
):
    shard = read_manifest(shapes.folder).shards[0]
    fake = recipe(backbone="fake")
    unit = Unit(shapes.folder, shard, part_name(shard), {"fake": fake})
    store = Store(tmp_path)
    decoder = functools.partial(make_decoder, "torchvision", [64], 8, CPU, 1)
    loop = EmbeddingLoop(
        {"fake": NotFinite(number)}, decoder, store, Attempts(tmp_path), batch_size=8, workers=2, storage=torch.float32
    )
    with pytest.raises(IntegrityError, match=r"no finite embedding for 3 images of flat/0.tar.*00000001 \(arrow/0001"):
        loop.run([unit])
    assert not store.has(fake.id, unit.part)
