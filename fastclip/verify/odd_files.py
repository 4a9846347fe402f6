"""Odd image files, drawn on the spot: every kind that Pillow writes, and those that some decoders see otherwise.

Each either comes out of every decoder as Pillow's pixels, or is refused by all of them with one reason.
"""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image, ImageCms, features


def odd_files() -> dict[str, bytes]:
    """Kind → the bytes of one small file of it."""
    written = {kind: zlib.decompress(base64.b85decode(text)) for kind, text in WRITTEN_ELSEWHERE.items()}
    makers = (_jpegs, _cmyk_jpegs, _pngs, _animations, _webps, _gifs, _bmps, _tiffs, _handmade_tiffs, _pnms, _avifs)
    files = {kind: data for maker in makers for kind, data in maker().items()} | written
    return files | _refused()


def _picture(height: int = 60, width: int = 84) -> Image.Image:
    """Slopes of three colours with an edge: smooth enough that resizers agree, and no two channels alike."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = np.stack([90 + 80 * np.sin(5 * x), 120 + 90 * np.cos(4 * y), 200 - 150 * x * y], axis=2)
    waves[height // 3 : height // 2, width // 4 : width // 2] += 40
    return Image.fromarray(waves.clip(0, 255).astype(np.uint8))


def _save(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def _with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def _colours(count: int) -> Image.Image:
    """The picture in a palette of its own."""
    return _picture().quantize(count, dither=Image.Dither.NONE)


def _black_and_white() -> Image.Image:
    return _picture().convert("1", dither=Image.Dither.NONE)


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def _profile(space: Literal["sRGB", "LAB"]) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()


def _jpegs() -> dict[str, bytes]:
    image = _picture()
    usual = _save(image, "JPEG")
    rgb = _save(image, "JPEG", keep_rgb=True, subsampling=0)
    return {
        "JPEG": usual,
        "JPEG 4:4:4": _save(image, "JPEG", subsampling=0),
        "JPEG 4:2:2": _save(image, "JPEG", subsampling=1),
        "JPEG of odd size": _save(_picture(61, 85), "JPEG"),
        "JPEG progressive": _save(image, "JPEG", progressive=True),
        "JPEG optimised": _save(image, "JPEG", optimize=True),
        "JPEG of quality 5": _save(image, "JPEG", quality=5),
        "JPEG of quality 100": _save(image, "JPEG", quality=100),
        "JPEG with restarts": _save(image, "JPEG", restart_marker_blocks=3),
        "JPEG grey": _save(image.convert("L"), "JPEG"),
        "JPEG grey progressive": _save(image.convert("L"), "JPEG", progressive=True),
        "JPEG stored as RGB": rgb,
        "JPEG stored as RGB by its letters": _without(rgb, 0xEE),
        "JPEG without JFIF": _without(usual, 0xE0),
        "JPEG with Adobe's marker": usual[:2] + _adobe(1) + _without(usual, 0xE0)[2:],
        "JPEG with Adobe's marker behind JFIF": usual[:20] + _adobe(1) + usual[20:],
        "JPEG turned by EXIF": _save(image, "JPEG", exif=_exif(6)),
        "JPEG mirrored by EXIF": _save(image, "JPEG", exif=_exif(2)),
        "JPEG with a profile": _save(image, "JPEG", icc_profile=_profile("sRGB")),
        "JPEG with a profile of Lab": _save(image, "JPEG", icc_profile=_profile("LAB")),
        "JPEG with a comment": _save(image, "JPEG", comment="x" * 5000),
        "JPEG with another behind it": usual + _save(image.rotate(180), "JPEG"),
        "JPEG with junk behind it": usual + bytes(range(256)) * 9,
        "JPEG with filled-up markers": usual[:2] + b"\xff\xff\xff" + usual[2:],
        "MPO": _save(image, "MPO", save_all=True, append_images=[image.rotate(180)]),
    }


def _adobe(transform: int) -> bytes:
    """Adobe's marker: 0 for RGB or inks, 1 for luma and chroma, 2 for inks as these."""
    return b"\xff\xee\0\x0eAdobe\0\x64" + bytes(4) + bytes([transform])


def _without(jpeg: bytes, marker: int) -> bytes:
    """The JPEG without the first segment of that marker, if it has one."""
    start = jpeg.find(bytes((0xFF, marker)))
    return jpeg if start < 0 else jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big") :]


def _cmyk_jpegs() -> dict[str, bytes]:
    """Four components mean what Adobe's marker says: inks, inks as luma and chroma, or inverted inks."""
    files = {}
    for name, progressive in (("JPEG in CMYK", False), ("JPEG in CMYK, progressive", True)):
        usual = _save(_picture().convert("CMYK"), "JPEG", progressive=progressive)
        transform = usual.index(b"Adobe") + 11
        files[name] = usual
        files[name + ", without Adobe's marker"] = _without(usual, 0xEE)
        files[name + ", as YCCK"] = usual[:transform] + b"\2" + usual[transform + 1 :]
    return files


def _pngs() -> dict[str, bytes]:
    image, grey = _picture(), _picture().convert("L")
    usual = _save(image, "PNG")
    end = usual.index(b"IEND") - 4
    data = zlib.compress(b"".join(b"\0" + bytes(row) for row in np.asarray(image)))
    files = {
        "PNG": usual,
        "PNG grey": _save(grey, "PNG"),
        "PNG grey and alpha": _save(_with_alpha(image).convert("LA"), "PNG"),
        "PNG with alpha": _save(_with_alpha(image), "PNG"),
        "PNG grey with a transparent level": _save(grey, "PNG", transparency=90),
        "PNG with a transparent colour": _save(image, "PNG", transparency=(90, 90, 90)),
        "PNG palette with a transparent colour": _save(_colours(64), "PNG", transparency=3),
        "PNG palette with alpha": _save(_colours(16), "PNG", transparency=bytes(range(0, 256, 16))),
        "PNG palette of 8 bits with alpha": _save(_colours(64), "PNG", transparency=bytes(range(0, 256, 4))),
        "PNG black and white": _save(_black_and_white(), "PNG"),
        "PNG in a web palette": _save(image.convert("P", dither=Image.Dither.NONE), "PNG"),
        "PNG turned by EXIF": _save(image, "PNG", exif=_exif(8)),
        "PNG with a profile": _save(image, "PNG", icc_profile=_profile("sRGB")),
        "PNG with a resolution": _save(image, "PNG", dpi=(300, 72)),
        "PNG without compression": _save(image, "PNG", compress_level=0),
        "PNG with junk behind it": usual + b"junk" * 99,
        "PNG with a gamma": usual[:33] + _chunk(b"gAMA", struct.pack(">I", 10_000)) + usual[33:],
        "PNG with a background": usual[:33] + _chunk(b"bKGD", struct.pack(">3H", 255, 0, 0)) + usual[33:],
        "PNG with significant bits": usual[:33] + _chunk(b"sBIT", b"\4\4\4") + usual[33:],
        "PNG with a chunk that nobody knows": usual[:33] + _chunk(b"abCd", b"?" * 100) + usual[33:],
        "PNG with text behind its pixels": usual[:end] + _chunk(b"tEXt", b"a\0b") + usual[end:],
        "PNG in many pieces": _png(image.size, 8, 2, *(data[at : at + 99] for at in range(0, len(data), 99))),
        "PNG in pieces, some empty": _png(image.size, 8, 2, b"", data[:99], b"", data[99:], b""),
        "PNG interlaced": _png(image.size, 8, 2, zlib.compress(_adam7(np.asarray(image))), interlaced=True),
        "PNG interlaced and grey": _png(grey.size, 8, 0, zlib.compress(_adam7(np.asarray(grey))), interlaced=True),
        "PNG grey of 2 bits": _png((16, 8), 2, 0, zlib.compress(b"\0\x1b\x1b\x1b\x1b" * 8)),
        "PNG grey of 4 bits": _png((8, 8), 4, 0, zlib.compress(b"\0\x02\x46\x8a\xce" * 8)),
    }
    return files | {
        f"PNG palette of {bits} bits": _save(_colours(1 << bits), "PNG", bits=bits) for bits in (1, 2, 4, 8)
    }


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(size: tuple[int, int], depth: int, colour: int, *data: bytes, interlaced: bool = False) -> bytes:
    """A PNG of raw pieces of compressed rows."""
    header = _chunk(b"IHDR", struct.pack(">2I5B", *size, depth, colour, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(_chunk(b"IDAT", piece) for piece in data) + _chunk(b"IEND", b"")


def _adam7(pixels: np.ndarray) -> bytes:
    """The rows of the seven passes, each with the number of its filter, which is none."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = [row for top, left, down, right in passes for row in pixels[top::down, left::right] if row.size]
    return b"".join(b"\0" + row.tobytes() for row in rows)


def _animations() -> dict[str, bytes]:
    """Two frames, and for PNG an image before them that is none: Pillow shows that one, some decoders a frame."""
    image, other = _picture(), _picture().rotate(180)
    hidden = _save(image, "PNG", save_all=True, append_images=[other, other.rotate(90)], default_image=True)
    control = hidden.index(b"acTL") - 4
    late = hidden[:control] + hidden[control + 20 :]
    pixels = late.index(b"IDAT") - 4
    pixels += 12 + int.from_bytes(late[pixels : pixels + 4], "big")
    return {
        "animated PNG": _save(image, "PNG", save_all=True, append_images=[other]),
        "animated PNG with a hidden image": hidden,
        "animated PNG that says so late": late[:pixels] + hidden[control : control + 20] + late[pixels:],
        "animated WebP": _save(image, "WEBP", save_all=True, append_images=[other]),
        "animated WebP, lossless": _save(image, "WEBP", save_all=True, append_images=[other], lossless=True),
        "animated GIF": _save(image, "GIF", save_all=True, append_images=[other]),
        "animated GIF with transparency": _save(
            _colours(8), "GIF", save_all=True, append_images=[_colours(16)], transparency=0, disposal=2
        ),
        "TIFF of two pages": _save(image, "TIFF", save_all=True, append_images=[other]),
    }


def _webps() -> dict[str, bytes]:
    image = _picture()
    return {
        "WebP": _save(image, "WEBP"),
        "WebP lossless": _save(image, "WEBP", lossless=True),
        "WebP with alpha": _save(_with_alpha(image), "WEBP"),
        "WebP with alpha, lossless": _save(_with_alpha(image), "WEBP", lossless=True, exact=True),
        "WebP grey": _save(image.convert("L"), "WEBP"),
        "WebP turned by EXIF": _save(image, "WEBP", exif=_exif(3)),
        "WebP with a profile": _save(image, "WEBP", icc_profile=_profile("sRGB")),
        "WebP with junk behind it": _save(image, "WEBP") + b"junk" * 99,
    }


def _gifs() -> dict[str, bytes]:
    usual = _save(_colours(64), "GIF", interlace=0)
    table = 13 + (3 << (usual[10] & 7) + 1)
    frame = usual.index(b",", table)
    local = usual[:10] + b"\0" + usual[11:13] + usual[table : frame + 9] + bytes([0x80 | usual[10] & 7])
    return {
        "GIF": usual,
        "GIF of 1987": _save(_colours(64), "GIF").replace(b"GIF89a", b"GIF87a"),
        "GIF interlaced": _save(_colours(64), "GIF", interlace=1),
        "GIF grey": _save(_picture().convert("L"), "GIF"),
        "GIF black and white": _save(_black_and_white(), "GIF"),
        "GIF of two colours": _save(_colours(2), "GIF"),
        "GIF with transparency": _save(_colours(16), "GIF", transparency=3),
        "GIF with a palette of its frame": local + usual[13:table] + usual[frame + 10 :],
        "GIF without a palette": local[:-1] + b"\0" + usual[frame + 10 :],
        "GIF on a larger screen": usual[:6] + struct.pack("<2H", 200, 150) + usual[10:],
        "GIF beyond its screen": usual[:6] + struct.pack("<2H", 9, 9) + usual[10:],
        "GIF with a comment": _save(_colours(64), "GIF", comment=b"x" * 5000),
        "GIF with junk behind it": usual + b"junk" * 99,
    }


def _bmps() -> dict[str, bytes]:
    image = _picture()
    bgr = np.asarray(image)[::-1, :, ::-1].astype(np.uint16)
    rgb555 = (bgr[..., 2] >> 3 << 10 | bgr[..., 1] >> 3 << 5 | bgr[..., 0] >> 3).tobytes()
    rgb565 = (bgr[..., 2] >> 3 << 11 | bgr[..., 1] >> 2 << 5 | bgr[..., 0] >> 3).tobytes()
    few = _colours(16)
    indices = np.asarray(few)[::-1]
    palette = b"".join(bytes(few.getpalette()[at : at + 3][::-1]) + b"\0" for at in range(0, 48, 3))  # type: ignore
    pairs = indices[:, ::2] << 4 | indices[:, 1::2]
    padded = b"".join(row.tobytes() + b"\0\0" for row in pairs)
    rle8 = b"".join(b"".join(bytes((1, index)) for index in row) + b"\0\0" for row in indices)
    rle4 = b"".join(b"".join(bytes((2, pair)) for pair in row) + b"\0\0" for row in pairs)
    core = b"".join(palette[at : at + 3] for at in range(0, 64, 4))
    masks = struct.pack("<3I", 0xF800, 0x7E0, 0x1F)
    alpha = _with_alpha(image)
    return {
        "BMP": _save(image, "BMP"),
        "BMP of odd width": _save(_picture(61, 85), "BMP"),
        "BMP grey": _save(image.convert("L"), "BMP"),
        "BMP of 8 bits": _save(_colours(200), "BMP"),
        "BMP of 1 bit": _save(_black_and_white(), "BMP"),
        "BMP of 32 bits": _save(alpha, "BMP"),
        "BMP of 4 bits": _bmp(image.size, 4, palette, padded),
        "BMP of 16 bits, 5-5-5": _bmp(image.size, 16, b"", rgb555),
        "BMP of 16 bits, 5-6-5": _bmp(image.size, 16, masks, rgb565, compression=3),
        "BMP with runs of 8 bits": _bmp(image.size, 8, palette, rle8, compression=1, colours=16),
        "BMP with runs of 4 bits": _bmp(image.size, 4, palette, rle4, compression=2),
        "BMP from the top down": _bmp((image.width, -image.height), 24, b"", np.asarray(image)[..., ::-1].tobytes()),
        "BMP of OS/2": _bmp(image.size, 4, core, padded, header=12),
        "BMP with a header of version 4": _bmp(image.size, 24, b"", bgr.astype(np.uint8).tobytes(), header=108),
        "BMP with a header of version 5": _bmp(image.size, 24, b"", bgr.astype(np.uint8).tobytes(), header=124),
    }


def _bmp(
    size: tuple[int, int],
    bits: int,
    palette: bytes,
    pixels: bytes,
    *,
    compression: int = 0,
    header: int = 40,
    colours: int = 0,
) -> bytes:
    """A BMP of rows from the bottom up, whose bytes are multiples of four."""
    if header == 12:
        middle = struct.pack("<I4H", header, *size, 1, bits)
    else:
        middle = struct.pack("<I2i2H6I", header, *size, 1, bits, compression, len(pixels), 2835, 2835, colours, 0)
        middle += bytes(header - 40)
    start = 14 + len(middle) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + middle + palette + pixels


def _tiffs() -> dict[str, bytes]:
    image = _picture()
    ways = ("raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "jpeg")
    compressed = {f"TIFF, {way}": _save(image, "TIFF", compression=way) for way in ways}
    two = {f"TIFF of 1 bit, {way}": _save(_black_and_white(), "TIFF", compression=way) for way in ("group3", "group4")}
    modes = {
        f"TIFF in {mode}, {way}": _save(image.convert(mode), "TIFF", compression=way)
        for mode in ("L", "LA", "RGBA", "CMYK", "YCbCr")
        for way in ("raw", "tiff_lzw")
    }
    lab = Image.merge("LAB", image.split())
    return {
        **compressed,
        **two,
        **modes,
        "TIFF in LAB": _save(lab, "TIFF"),
        "TIFF in palette": _save(_colours(200), "TIFF"),
        "TIFF in palette, compressed": _save(_colours(200), "TIFF", compression="tiff_lzw"),
        "TIFF of 1 bit": _save(_black_and_white(), "TIFF"),
        "TIFF with a predictor": _save(image, "TIFF", compression="tiff_lzw", tiffinfo={317: 2}),
        "TIFF turned": _save(image, "TIFF", tiffinfo={274: 6}),
        "TIFF mirrored": _save(image, "TIFF", compression="tiff_lzw", tiffinfo={274: 4}),
        "TIFF with a profile": _save(image, "TIFF", icc_profile=_profile("sRGB")),
        "TIFF in JPEG, grey": _save(image.convert("L"), "TIFF", compression="jpeg"),
    }


def _handmade_tiffs() -> dict[str, bytes]:
    pixels = np.asarray(_picture(32, 48))
    planes = b"".join(pixels[..., channel].tobytes() for channel in range(3))
    tiles = [pixels[top : top + 16, left : left + 16].tobytes() for top in (0, 16) for left in (0, 16, 32)]
    grey = pixels[..., 1]
    return {
        "TIFF of big-endian order": _tiff(">", [pixels.tobytes()], {258: (8, 8, 8), 262: (2,), 277: (3,)}),
        "TIFF in tiles": _tiff("<", tiles, {258: (8, 8, 8), 262: (2,), 277: (3,), 322: (16,), 323: (16,)}),
        "TIFF in tiles, big-endian": _tiff(">", tiles, {258: (8, 8, 8), 262: (2,), 277: (3,), 322: (16,), 323: (16,)}),
        "TIFF in strips": _tiff(
            "<", [row.tobytes() for row in pixels], {258: (8, 8, 8), 262: (2,), 277: (3,), 278: (1,)}
        ),
        "TIFF in planes": _tiff(
            "<",
            [planes[at : at + 32 * 48] for at in (0, 1536, 3072)],
            {258: (8, 8, 8), 262: (2,), 277: (3,), 284: (2,)},
        ),
        "TIFF whose white is zero": _tiff("<", [grey.tobytes()], {258: (8,), 262: (0,), 277: (1,)}),
        "TIFF of 4 bits": _tiff(
            "<", [(grey[:, ::2] & 0xF0 | grey[:, 1::2] >> 4).tobytes()], {258: (4,), 262: (1,), 277: (1,)}
        ),
        "TIFF with bits backwards": _tiff(
            "<", [np.packbits(grey > 99, axis=1).tobytes()], {258: (1,), 262: (1,), 277: (1,), 266: (2,)}
        ),
    }


def _tiff(order: str, pieces: Sequence[bytes], tags: dict[int, tuple[int, ...]]) -> bytes:
    """A TIFF of 48 × 32 without compression. The pieces are strips, or tiles if there is a tag of their width."""
    where, sizes = (324, 325) if 322 in tags else (273, 279)
    starts = [8 + sum(map(len, pieces[:number])) for number in range(len(pieces))]
    tags = {256: (48,), 257: (32,), 259: (1,), **tags, where: tuple(starts), sizes: tuple(map(len, pieces))}
    at = 8 + sum(map(len, pieces))
    behind, rows = at + 2 + 12 * len(tags) + 4, []
    values = b""
    for tag, numbers in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if tag in (258, 262):  # readers want short ones
            packed = struct.pack(f"{order}{len(numbers)}H", *numbers)
        kind = 3 if tag in (258, 262) else 4
        inside = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack(order + "I", behind + len(values))
        values += packed if len(packed) > 4 else b""
        rows.append(struct.pack(order + "HHI", tag, kind, len(numbers)) + inside)
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", at)
    return start + b"".join(pieces) + struct.pack(order + "H", len(rows)) + b"".join(rows) + bytes(4) + values


def _pnms() -> dict[str, bytes]:
    image, bits = _picture(), _black_and_white()
    grey, colours = np.asarray(image.convert("L")), np.asarray(image)
    return {
        "PNM P1": b"P1\n84 60\n" + b"\n".join(b"".join(b"01"[~v & 1 :][:1] for v in row) for row in np.asarray(bits)),
        "PNM P2": b"P2\n84 60\n255\n" + _numbers(grey),
        "PNM P2 with comments": b"P2 # grey\n# nothing\n84 # wide\n60\n255\n# pixels\n" + _numbers(grey),
        "PNM P2 up to 100": b"P2 84 60 100\n" + _numbers(grey * 100.0 / 255),
        "PNM P3": b"P3\n84 60\n255\n" + _numbers(colours),
        "PNM P4": _save(bits, "PPM"),
        "PNM P5": _save(image.convert("L"), "PPM"),
        "PNM P5 up to 15": b"P5\n84 60\n15\n" + (grey >> 4).tobytes(),
        "PNM P6": _save(image, "PPM"),
        "PNM P6 up to 100": b"P6\t84\t60\t100\n" + (colours * 100.0 / 255).astype(np.uint8).tobytes(),
        "PNM with a comment": b"P6\n# made by a scanner\r84 60\n255\n" + colours.tobytes(),
        "PNM with junk behind it": _save(image, "PPM") + b"junk" * 99,
    }


def _numbers(values: np.ndarray) -> bytes:
    return b" ".join(str(int(value)).encode() for value in values.flat)


def _avifs() -> dict[str, bytes]:
    if "avif" not in features.modules or not features.check("avif"):
        return {}
    image = _picture()
    return {
        "AVIF": _save(image, "AVIF"),
        "AVIF 4:4:4": _save(image, "AVIF", subsampling="4:4:4"),
        "AVIF grey": _save(image.convert("L"), "AVIF"),
        "AVIF with alpha": _save(_with_alpha(image), "AVIF"),
        "AVIF turned by EXIF": _save(image, "AVIF", exif=_exif(6)),
        "AVIF with a profile": _save(image, "AVIF", icc_profile=_profile("sRGB")),
        "animated AVIF": _save(image, "AVIF", save_all=True, append_images=[image.rotate(180)]),
    }


def damaged_files() -> dict[str, bytes]:
    """Kind → a file that ends too soon or holds a wrong byte. Decoders' own libraries say so on the terminal."""
    files = odd_files()
    cut = ("JPEG", "JPEG progressive", "PNG", "WebP", "GIF", "BMP", "TIFF, tiff_lzw", "PNM P6", "PNM P3", "AVIF")
    png = files["PNG"]
    flipped = png.index(b"IDAT") + 60
    return {
        **{f"{kind}, cut in half": files[kind][: len(files[kind]) // 2] for kind in cut if kind in files},
        **{f"{kind}, cut to 40 bytes": files[kind][:40] for kind in cut if kind in files},
        "JPEG without its end mark": files["JPEG"][:-2],
        "PNG without its end": png[: png.index(b"IEND") - 4],
        "PNG with a wrong byte": png[:flipped] + bytes([png[flipped] ^ 0xFF]) + png[flipped + 1 :],
        "PNG with a wrong checksum": png[:-16] + bytes([png[-16] ^ 0xFF]) + png[-15:],
    }


def _refused() -> dict[str, bytes]:
    """Files that no decoder may take."""
    image = _picture()
    deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    rows = zlib.compress((b"\0" + bytes(range(96))) * 4)
    return {
        "PNG grey of 16 bits": _save(deep, "PNG"),
        "PNG of 16 bits": _png((16, 4), 16, 2, rows),
        "TIFF of 16 bits": _save(deep, "TIFF"),
        "TIFF of floats": _save(image.convert("F"), "TIFF"),
        "BigTIFF": _save(image, "TIFF", big_tiff=True),
        "a camera's raw file": _tiff("<", [bytes(48 * 32)], {258: (8,), 262: (1,), 277: (1,), 50706: (1, 4, 0, 0)}),
        "PNM P5 of 16 bits": _save(deep, "PPM"),
        "PNM P6 of 16 bits": b"P6 2 2 65535\n" + bytes(24),
        "PNM of floats": _save(image.convert("F"), "PPM"),
        "PAM": b"P7\nWIDTH 2\nHEIGHT 2\nDEPTH 1\nMAXVAL 255\nTUPLTYPE GRAYSCALE\nENDHDR\n" + bytes(4),
        "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99),
        "JPEG XL": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(99),
        "JPEG XL, bare": b"\xff\x0a" + bytes(99),
        "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99),
        "HEIC of a camera": b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(99),
        "PSD": b"8BPS\0\1" + bytes(99),
        "SVG": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
        "PDF": b"%PDF-1.7\n" + bytes(99),
        "web page": b"<!DOCTYPE html>\n<html>404</html>",
        "empty file": b"",
        "zeros": bytes(999),
        "GIF of 65,535 × 65,535": b"GIF89a" + b"\xff" * 4 + bytes(3) + b"," + bytes(9) + b"\x02\x02\x44\x01\0;",
        "BMP of 30,000 × 30,000": _bmp((30_000, 30_000), 24, b"", bytes(99)),
        "PNM of 30,000 × 30,000": b"P4 30000 30000\n" + bytes(99),
        "TIFF in tiles of 30,000 × 30,000": _tiff(
            "<", [bytes(99)], {258: (8,), 262: (1,), 277: (1,), 322: (30_000,), 323: (30_000,)}
        ),
        "TIFF whose tags repeat its bytes": _tiff("<", [bytes(99)], dict.fromkeys(range(700, 800), (0,) * 99))[:9000],
    }


# Written by libjpeg-turbo and libavif: Pillow writes none of these. Compressed by zlib, in base 85.
WRITTEN_ELSEWHERE = {
    "JPEG arithmetic": (
        "c-"
        "s4a<NpH&0WUXCHwH#V1_nkTWcYuZ!I^=Bjg6g+m4ls~os*M;i${c)hnt&6Qb?FzL{>^(PF6}rMnOeST|r4lSw=>~TvNxu(8R<<Uft5x!"
        "pKI?*u)5A2qPyaCl5D|1TU|Ik)n*E5y{~HNd`d<1_cHKW=16jCP7AKLB{`Q7`PY&1Xvjb1X=&zV&GwB1WGUqGT1ZxXSnoko3y>M`<dDQ"
        "oC8;vI^E>lFmKDTn-Pr+%C>Xc{xf_OIMQZ%E>1E~r+LBA?DgB(zwmxy|Kcmm@k!viFW-"
        "*|OSD2YmwLaN^`GJGd>g|vY2hU~tNltHeL0llcc1XG@oV^h69D%?QV#"
    ),
    "JPEG arithmetic progressive": (
        "c-"
        "s4a<NpH&0WUXCHwH#V1_nkTWcYuZ!I^=Bjg6g+m4ls~os*M;i${c)hnt&6Qb?FzL{>^(PF6}rMnOeST|r4lSw=>~TvNxu(8R<<Uft5x!"
        "pKI?*u)5A2qPyaCl5D|1TU|Ik)n*E5y{~HDF#6f1_cHKW=16jCP7AKLB{`Q7}yvD7zO^{V&GwBWMC3t763Z?Kf}`1%#~*>SPWlPnrfyy"
        "+jGr~d+qJ$W7HAe&<NDRBESmNzyb6kBP)~8!n5v8o>z?(X8LJ?<OCsd%#4ioj8gqKL{A2`{y-"
        "9E0*Ui=Ye}G(!)DL40o7o8#h2SdV9sJ-W?*0t(4BO4*#R^w1ispCXG1ey;1!xt0zS!m*bQIK=y03y|0V#;9cWV"
    ),
    "JPEG 4:1:1": (
        "c-"
        "s4a<NpH&0WUXCHwH#V1_nkTWcYuZ!I^=Bjg6g+m4ls~os*M;i${c)hnt&6Qb?FzL{>^(PF6}rMnOeST|r4lSw=>~TvNxu(8R<<Uft5x!"
        "pKI?*u)5A2qPyaCl5D|1TU|Ik)n*E5y{~H0R}-"
        "11_cHKW=2N_CP7AKLB{__7{q~21vwT0SQyyYK@tKC%qZdv49qNvAPGiv9jt8Z%s>fgK?Wv9Rummf%q*;mN{0V$G4KElV-jQ*WUyy=w6d"
        "LjnT*Vgf~v&BdwjHWXE$Hw<MXj_QRr=YG%J_qQsTjrAO&(W3e?n$rE~6pRUT4g$r1Z<IU_AtjNiw?*5JXD!;OZ9Gj69n_;MJiUywsNVa"
        "KxB&PE`$2Tyhb^>cRi9J_4}v8lr`nsu+qE&2a90YHCWVg"
    ),
    "JPEG 4:4:0": (
        "c-"
        "s4a<NpH&0WUXCHwH#V1_nkTWcYuZ!I^=Bjg6g+m4ls~os*M;i${c)hnt&6Qb?FzL{>^(PF6}rMnOeST|r4lSw=>~TvNxu(8R<<Uft5x!"
        "pKI?*u)5A2qPyaCl5D|1TU|Ik)n*E5y{~H0R}-11_cHKW=0_fCP7AKLB{__7{q{11v(Q6u(7fO#l-"
        "~}m{G+Um{}5m5|SYGC{oO<Oe}05J(7Y9OlX=InLxU3G4KGznFN^y8SEL32J>+W^GRsVGR=LdY4D)e;K8a?u5DkY%qZ}fQQ&IS8eQe(W1"
        "-?>p*7QK?Os(i8Np>TqCN}5?oFBu(#NqZV0FH;W;aV`J71yC2Q8S!P^d;_p9q*nA)sD_MlPVnOeFjM-vj`2PhF`"
    ),
    "JPEG sampled 4 × 2": (
        "c-"
        "s4a<NpH&0WUXCHwH#V1_nkTWcYuZ!I^=Bjg6g+m4ls~os*M;i${c)hnt&6Qb?FzL{>^(PF6}rMnOeST|r4lSw=>~TvNxu(8R<<Uft5x!"
        "pKI?*u)5A2qPyaCl5D|1TU|Ik)n*E5y{~H0R}-"
        "11_cHKW=1ClCP7AKLB{__7$ksBWdykv4p<mi+1P<H;sOlJ$l^f2%#sMw!pOkHj3Um;#>@iJA}z?k#DuDeiA9l_)lljGEe0N-"
        "1d|}MAcH-_$B@I#m-+a7ENl%PlpJoJ%*PL6K2%fJ%})DtW(i0{P-"
        "<m6`!X3N4&@6UrSkjcoJu<Q5+ooqqrfT=#8lIfn^C~tc_usBye$YM!qFQ7*2p6GqN3OQ;QyNdPZCt~"
    ),
    "JPEG sampled 2 × 2 and 2 × 1": (
        "c-"
        "s4a<NpH&0WUXCHwH#V1_nkTWcYuZ!I^=Bjg6g+m4ls~os*M;i${c)hnt&6Qb?FzL{>^(PF6}rMnOeST|r4lSw=>~TvNxu(8R<<Uft5x!"
        "pKI?*u)5A2qPyaCl5D|1TU|Ik)n*E5y{~H0R}-"
        "11_cHKW=16jCP7AKMaKU}7{q~21vwT0SXkNEK@tKC%qZdv49qNvAPGiv9jq*jARQ8dKpm)Bm_S-"
        "?G4KFQViIH)WUyy=w6dLjnT*yl8JQUcM~WnKU$kudGG#_VRpOyli3eY{a|Iqz-"
        "M&cZ_NAc2gD2a$Ad1}urrqoC&i6T$1X2MOV{o?++4jXLy2{JP!qVVjsA0mF!>t~Vgl=Et%zde8@BqjQIov#%Ph@e2cLvak|2F}bd}Ct"
    ),
    "JPEG sampled 1 × 4": (
        "c-"
        "s4a<NpH&0WUXCHwH#V1_nkTWcYuZ!I^=Bjg6g+m4ls~os*M;i${c)hnt&6Qb?FzL{>^(PF6}rMnOeST|r4lSw=>~TvNxu(8R<<Uft5x!"
        "pKI?*u)5A2qPyaCl5D|1TU|Ik)n*E5y{~H0R}-"
        "11_cHKW=0VPCP7AKLB{__7(~HNMFwo_Kw)tK24*yIW|l;d1S1Hbh_kY=0VN~^8JL*SbTG0e{=db*12l<AkXewyo}p`*jF6g);4&Q`Y3z"
        "J1Gd#-UG9SlfK2Bi};^x;__1aS?@t_hINhKXre99V|sqAB+;$s0Jb!--"
        "_UaOMX&H_Z8AjH}}MYMEDr@@1XVAN~yV8W-SbzA=51OP&PP&)"
    ),
    "JPEG sampled 3 × 1": (
        "c-"
        "s4a<NpH&0WUXCHwH#V1_nkTWcYuZ!I^=Bjg6g+m4ls~os*M;i${c)hnt&6Qb?FzL{>^(PF6}rMnOeST|r4lSw=>~TvNxu(8R<<Uft5x!"
        "pKI?*u)5A2qPyaCl5D|1TU|Ik)n*E5y{~H0R}-11_cHKW=2B>CP7AKLB{__7{q{11v(Q6u&}WM#l-"
        "~}m{G+Um{}5m5)zC+2^1L?RyKBKkc=P$6Em6?CKkj0w-"
        "|VUMllI83o_U<91Z5<_pz`vczCghchMWU83k2|2T!&$PggqBy<rwe;=z~0O<PZ#%h=7nOhyJIec<Vd4U68W1&aao*&009SY+I#2h;+T2"
        "I@8~($Uz>IpuKkWj;Qi2%VUoN8KBMCcbQESCiq3>6X$v{Qo8Zz~Ef8"
    ),
    "JPEG with a scan a component": (
        "c-"
        "s4a<NpH&0WUXCHwH#V1_nkTWcYuZ!I^=Bjg6g+m4ls~os*M;i${c)hnt&6Qb?FzL{>^(PF6}rMnOeST|r4lSw=>~TvNxu(8R<<Uft5x!"
        "pKI?*u)5A2qPyaCl5D|1TU|Ik)n*E5y{~H0R}-11_cHKW=16jCP7AKLB{__7{q{11v(Q6u&}WM#l-~}m{G+Um{}74-"
        "(uhZDYs`h8qCM<V_|9V;LG9W%Y1x37QSjSGBXOQ5)Zy?XIGPvn^7>+C&CsiJsG6Z*5IKLSo&l)`!bMpQQ~2c^^6$SGqM83MFr7>8JHNr"
        "mNN+gEpI%@7f{Af)I3QRs}XF>ARmYcVi?T;@c=W(jLz8##$^s^Z#yM-Lm2;W0sseJSwH"
    ),
    "JPEG lossless": (
        "c-s4a<NrGbKF5^&q*R6!1`zmvm_d+(L4m=5IY^MfU68>^km3Ik25|-"
        "kW<~}Sz{Je){}uxea}a|&gA)T#^8C;L4E9&5`U79ty07>ux0o!Z%<fSWMokzsVbp|C6GlxKHDP3#Apid+0INHYp8"
    ),
    "JPEG lossless grey": ("c-s4a<Npx`F$P9PMh0ZS%)s&gFatLSg93vABZDBr|62?kKox8Z4ClXwB7l_=b}%YFDn6XV8UEh{0IHvK*#"),
    "JPEG of 12 bits": (
        "c-"
        "s4a<NpH&0WUXCHwH#V1_nkTWcYuZ!I^=Bjg6g+m4ls~os*M;i${c)hnt&6Qb?FzL{>^(PF6}rMnOeST|r4lSw=>~TvNxu(8R<<Uft5x!"
        "pKI?*u)5A2qPyaCl5D|1TU|Ik)n*E5y{~HK?Xq{1_cHKW=16jCP7AKLB{__7{q~21vwT0I5@euff7;z3=HfHD1e<q)z~QzC@0Ctz{HHI"
        "iHnt;6QoT>kb#kz6-65xhmwksv18!>TMRrvT}*<^f(-TykM;#CRY)5(UISB2%cq=}$985xDTM0t(#@Udx9$4ew#Bnm8+|$-"
        "<eXxU1XEn|khL{T1uC3yKzHl&#1+p@CZU=r0ye4)La7FIN2eGF=T_dxvfON<YNXz{Swl7zOlcKDEJy@XJW?RLkF4Cb=Z&e%O&zWjf9A9"
        "Rt5aYq<kL*y12?DeZ30s)n*y_Q+8A@!Tl2b`c{3qPiP|i4`CyjHyar4$YE6l{t=JHqeeQ7J+4=u(0sv80nKl"
    ),
    "AVIF of 10 bits": (
        "c-muNU{FXasVqn=%S>Yc0uY^>nP!-"
        "qnV9D5Xy^zOdYzkElE?r7iWw<6MNl?FL1uCZ0~+8f$SlbPvlxL`E;A=T8N_h`@fjhajKV<LABZ(FGxO5mYNddjR3<1dvCP2GIX@>KY*$"
        "uhK~Vva_RcIw&Ii&WnZ*UEQ2PvkSOJIy3NkA)K?2NNTwFkkC$Y@XxlzFZBqW@ipHq~VoKwNT1cYo2Kq2wWf?SxNfDU6}WNKysGQ)FI5="
        "(>_xHv6D^?z3g2$(b&IfyqUvm9XfB;dhtXXWIy=F0UtSIl}}m_B~;d*Po*!><b~H%Qj%K8jqp-"
        "p+Q?k4OEpX8665`faYZoKcz4DXOa{5dc94Pj~"
    ),
    "AVIF of 12 bits": (
        "c-muNV30{GsVqn=%S>Yc0uY^>nP!-qnF!*)&P^>zWPkw0jFg-rD4U@mGr5ET4e%9YmgIt2j6f`xnUkLk;<$kLj1W;qejx1!#2T5Id1-"
        "L9Qb0~B6O@-&W?<-"
        "?pOX)^D=V|0r~pWNXBH&q18I@W;(}DDeFi|R0K@_XnH8BJ0cIW^9w5b&SZ3(l=#T&s5>C#~DauREsbF9NLbe8=ka%W6F3e9rhp{j+HM0"
        "PjVYw-ZB|;2boDrh>zoS@Kcm<5?#ha2@4lsNYV7Rk#au$<EdQ*(ztNxm0_v3DOUQg)q2%Fo%ru;(Sa)!`78`rN-"
        "vy~Sf6lH(9r2T)S&)<2Uvr7ON{Y?="
    ),
}
