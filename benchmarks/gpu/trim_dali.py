"""Makes an unpacked folder of packages small enough to travel: about a tenth, packed.

    python benchmarks/gpu/trim_dali.py SITE [--arch 90]

DALI keeps machine code for one GPU architecture only (90: H100 and H200). It loses symbol tables and the libraries for
video, audio, FITS, S3 and Google Cloud. Everything that `external_source`, `decoders.image` and `resize` run is kept.
A function that was taken away ends the process with an illegal instruction. Needs readelf, strip, gcc and zstd.
"""

from __future__ import annotations

import argparse
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

UNUSED_LIBRARIES = re.compile(
    r"lib(avcodec|avformat|avfilter|avutil|swscale|aws|s2n|cfitsio|sndfile|FLAC|opus|ogg|google_cloud_cpp_storage)"
)
UNUSED_FILES = (
    "nvidia/dali/include", "nvidia/dali/test", "nvidia/dali/Acknowledgements.txt", "nvidia/nvimgcodec/include",
    "nvidia/nvimgcodec/tools", "nvidia/libnvcomp", "nvidia/nvtiff", "nvidia/nvjpeg2k",
    "nvidia/nvimgcodec/extensions/libnvtiff*", "nvidia/nvimgcodec/extensions/libnvjpeg2k*",
    "nvidia/nvimgcodec/extensions/libtiff*", "open_clip_train", "libcst*", "nvtx*", "makefun*", "indexed_gzip/tests",
    "indexed_gzip/*.[ch]", "indexed_gzip/*.p*x*", "*/*.pyi", "nvidia/*/*.pyi",
)  # fmt: skip
UNUSED_KERNELS = re.compile(rb"4dali4expr|4dali3rng|4dali7kernels4warp|16ConvMmaPipelined|SliceFlipNormalizePermutePad")
"""Mangled names of operators that nobody asks for: arithmetic, random numbers, warps, blurs, crop-mirror-normalize."""

CUBIN, FAT_BINARY = 2, 0xBA55ED50
SMALL_KERNEL = 20_000
"""Bytes below which an unused kernel is not worth looking into."""


def run(*command: object) -> str:
    """The output of a command, which must succeed."""
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout


@dataclass(frozen=True)
class Symbol:
    """A row of a library's table of dynamic symbols."""

    size: int
    kind: str
    section: str
    """UND where another library has it."""
    name: str
    """With its version, as NAME@VERSION."""

    @property
    def bare(self) -> str:
        """The name without its version."""
        return self.name.partition("@")[0]


def symbols(library: Path) -> Iterator[Symbol]:
    """The dynamic symbols of a library."""
    for line in run("readelf", "--dyn-syms", "-W", library).splitlines():
        words = line.split()
        if len(words) >= 8 and words[0].rstrip(":").isdigit():
            yield Symbol(int(words[2], 0), words[3], words[6], words[7].replace("@@", "@"))


def dynamic_names(library: Path, tag: str) -> list[str]:
    """The names under a tag such as NEEDED or SONAME."""
    return re.findall(rf"{tag}.*\[(.*)\]", run("readelf", "-d", library))


def is_library(path: Path) -> bool:
    """Whether a file is a shared object and no link to one."""
    if not path.is_file() or path.is_symlink() or ".so" not in path.name:
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def sections(image: bytes | bytearray) -> dict[str, tuple[int, int]]:
    """Name of each section of an ELF file → offset and size."""
    (table,) = struct.unpack_from("<Q", image, 0x28)
    size, number, of_names = struct.unpack_from("<HHH", image, 0x3A)
    rows = [struct.unpack_from("<IIQQQQ", image, table + row * size) for row in range(number)]
    names = rows[of_names][4]
    return {image[names + row[0] : image.index(b"\0", names + row[0])].decode(): (row[4], row[5]) for row in rows}


def fat_binaries(image: bytes | bytearray) -> Iterator[tuple[int, int, int]]:
    """Start, end of the header and end of each fat binary of an ELF file."""
    for name, (start, size) in sections(image).items():
        at = start
        while name in (".nv_fatbin", "__nv_relfatbin") and at < start + size - 16:
            magic, _, header, length = struct.unpack_from("<IHHQ", image, at)
            if magic == FAT_BINARY:
                yield at, at + header, at + header + length
                at = (at + header + length + 7) & ~7
            else:
                at += 8


def entries(image: bytes | bytearray, first: int, end: int) -> Iterator[tuple[int, int, bytes, bytes]]:
    """Kind, architecture, whole entry and payload of each image of a fat binary."""
    while first < end:
        kind, _, header, payload = struct.unpack_from("<HHIQ", image, first)
        (architecture,) = struct.unpack_from("<I", image, first + 28)
        whole = bytes(image[first : first + header + payload])
        yield kind, architecture, whole, whole[header:]
        first += header + payload


def is_unused(entry: bytes, payload: bytes) -> bool:
    """Whether an image holds nothing but kernels of `UNUSED_KERNELS`."""
    (packed,) = struct.unpack_from("<I", entry, 16)
    elf = subprocess.run(["zstd", "-dcq"], input=payload[:packed], capture_output=True, check=False).stdout
    kernels = set(re.findall(rb"\.text\.(\w+)", elf))
    return bool(kernels) and all(UNUSED_KERNELS.search(kernel) for kernel in kernels)


def keep_one_architecture(library: Path, architecture: int, *, drop_unused: bool) -> None:
    """Leave in each fat binary the image for one architecture: moved to its front, the rest zero, the sizes right.

    With `drop_unused`, the smallest image for another GPU takes the place of kernels that nobody asks for: calling one
    fails with "no kernel image", and nothing else notices.
    """
    image = bytearray(library.read_bytes())
    kept, zeroed = 0, 0
    foreign = b""
    for start, first, end in fat_binaries(image):
        chosen = payload = b""
        for kind, entry_architecture, entry, its_payload in entries(image, first, end):
            if (kind, entry_architecture) == (CUBIN, architecture):
                chosen, payload = entry, its_payload
            elif kind == CUBIN and (not foreign or len(entry) < len(foreign)):
                foreign = entry
        assert chosen, f"{library} has a fat binary without machine code for sm_{architecture}"
        if drop_unused and len(payload) > SMALL_KERNEL and is_unused(chosen, payload):
            chosen = foreign
        image[first:end] = chosen + bytes(end - first - len(chosen))
        struct.pack_into("<Q", image, start + 8, len(chosen))
        kept, zeroed = kept + len(chosen), zeroed + end - first - len(chosen)
    if zeroed:
        library.write_bytes(image)
        print(f"{library.name}: {kept / 1e6:.1f} MB of machine code kept, {zeroed / 1e6:.1f} MB zeroed")


def replace_by_stub(library: Path, wanted: set[str], provided: set[str]) -> None:
    """Put an empty library of the same name in the place of `library`.

    It has the symbols and versions in `wanted` that nobody else provides: functions end the process, objects are zeros.
    """
    name = (dynamic_names(library, "SONAME") or [library.name])[0]
    code, by_version, seen = [".text"], dict[str, list[str]](), set[str]()
    for each in symbols(library):
        if each.section in ("UND", "ABS") or each.bare in seen | provided or not {each.bare, each.name} & wanted:
            continue
        seen.add(each.bare)
        by_version.setdefault(each.name.partition("@")[2], []).append(each.bare)
        code.append(f".globl {each.bare}")
        if each.kind == "OBJECT":
            code += [".data", f".type {each.bare}, @object", f".size {each.bare}, {each.size}", ".balign 16"]
            code += [f"{each.bare}: .zero {max(each.size, 1)}", ".text"]
        else:
            code += [f".type {each.bare}, @function", f"{each.bare}: ud2"]
    versions = {version: names for version, names in by_version.items() if version}
    defined = re.findall(r"Flags: none\s+Index: \d+\s+Cnt: \d+\s+Name: (\S+)", run("readelf", "-V", "-W", library))
    versions |= {version: [] for version in defined if version not in versions}
    with tempfile.TemporaryDirectory() as folder:
        source, script = Path(folder, "stub.s"), Path(folder, "stub.map")
        source.write_text("\n".join([*code, '.section .note.GNU-stack,"",@progbits', ""]))
        for version, names in versions.items():
            listed = "".join(f"{each}; " for each in names)
            with script.open("a") as file:
                file.write(f"{version} {{ {'global: ' * bool(names)}{listed}}};\n")
        library.unlink()
        more = [f"-Wl,--version-script={script}"] if versions else []
        run("gcc", "-shared", "-nostdlib", "-s", "-o", library, source, f"-Wl,-soname,{name}", *more)


def replace_unused_libraries(dali: Path) -> None:
    """Remove the libraries that nobody calls; one that another library is linked to becomes a stub."""
    private = list((dali / ".libs").iterdir())
    unused = [library for library in private if UNUSED_LIBRARIES.match(library.name)]
    stay = [*dali.glob("lib*.so"), *dali.glob("*.cpython-*.so"), *(each for each in private if each not in unused)]
    found = [symbol for library in stay for symbol in symbols(library)]
    wanted = {symbol.name for symbol in found if symbol.section == "UND"}
    provided = {symbol.bare for symbol in found if symbol.section != "UND"}
    for system in ("libstdc++.so.6", "libgcc_s.so.1", "libc.so.6"):
        path = Path(run("gcc", f"-print-file-name={system}").strip())
        provided |= {symbol.bare for symbol in symbols(path) if symbol.section != "UND"}
    linked = {name for library in stay for name in dynamic_names(library, "NEEDED")}
    for library in unused:
        if library.name in linked:
            replace_by_stub(library, wanted, provided)
        else:
            library.unlink()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("site", type=Path)
    options.add_argument("--arch", type=int, default=90)
    arguments = options.parse_args()
    for path in [path for pattern in UNUSED_FILES for path in arguments.site.glob(pattern)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    for library in filter(is_library, list(arguments.site.rglob("*"))):
        run("strip", "--strip-unneeded", library)
        keep_one_architecture(library, arguments.arch, drop_unused="libdali_operators" in library.name)
    replace_unused_libraries(arguments.site / "nvidia" / "dali")


if __name__ == "__main__":
    main()
