"""Writes a listed folder as tar shards with webdataset: original bytes, one decode of every image on the way in."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import webdataset

from fastclip.data.catalogue import DatasetCard, readable_name
from fastclip.data.folders import FolderListing, ImageFile
from fastclip.data.images import check_image
from fastclip.data.manifest import (
    MANIFEST,
    REJECTED,
    Domain,
    ImageRecord,
    Manifest,
    Rejected,
    Shard,
    json_lines,
    path_name,
    remove_stale_shards,
)
from fastclip.errors import UserError
from fastclip.files import digest, digest_file, publish, write_temporary, write_whole


@dataclass(frozen=True)
class CheckedImage:
    """An image that decodes, as it goes into a shard."""

    file: ImageFile
    data: bytes
    extension: str
    height: int
    width: int


def write_shards(
    source: Path,
    listing: FolderListing,
    folder: Path,
    *,
    dataset: str,
    card: DatasetCard | None,
    shard_images: int = 1000,
    workers: int = 2,
    on_image: Callable[[], None] = lambda: None,
) -> tuple[Manifest, list[Rejected]]:
    """Write the images of `listing` (relative to `source`) into `folder` and publish its manifest last.

    The bytes depend on the listing and `shard_images` alone. `on_image` is called once an image. Raises `UserError`
    if no image can be used.
    """
    label = {name: index for index, name in enumerate(listing.classes)}
    rejected = [Rejected(path=path, reason="not an image in a class folder") for path in listing.other_files]
    shards: list[Shard] = []
    domains: list[Domain] = []
    with ThreadPoolExecutor(workers) as pool:
        for domain in listing.domains:
            files = [file for file in listing.images if file.domain == domain]
            bad: list[Rejected] = []
            images = _readable(_check_in_order(pool, source, files), label, bad, on_image)
            written = list(_write_domain(folder, domain, images, label, shard_images))
            shards += written
            rejected += bad
            domains.append(Domain(name=domain, images=sum(s.images for s in written), unreadable=len(bad)))
    if not shards:
        raise UserError(
            f"None of the {len(listing.images)} images in {source} can be used; the first: {rejected[-1].reason}.",
            fix="Give JPEG, PNG or WebP files that open in an image viewer.",
        )
    title = card.title if card else dataset
    readable = card.readable_names if card else {}
    manifest = Manifest(
        dataset=dataset,
        title=title,
        classes=listing.classes,
        names=tuple(readable.get(name) or readable_name(name) for name in listing.classes),
        domains=tuple(domains),
        shards=tuple(shards),
        rejected_sha256=digest(json_lines(rejected)),
    )
    _publish_dataset(folder, manifest, rejected)
    return manifest, rejected


def _check_in_order(
    pool: ThreadPoolExecutor, source: Path, files: list[ImageFile]
) -> Iterator[CheckedImage | tuple[ImageFile, str]]:
    """Each file decoded (Pillow releases the GIL while it does), in the order of `files`, a bounded number ahead."""

    def check(file: ImageFile) -> CheckedImage | tuple[ImageFile, str]:
        try:
            data = (source / file.path).read_bytes()
            return CheckedImage(file, data, *check_image(data))
        except (ValueError, OSError) as error:
            return file, str(error)

    waiting = iter(files)
    ahead = [pool.submit(check, file) for file in islice(waiting, 64)]
    while ahead:
        yield ahead.pop(0).result()
        ahead += [pool.submit(check, file) for file in islice(waiting, 1)]


def _readable(
    checked: Iterable[CheckedImage | tuple[ImageFile, str]],
    label: dict[str, int],
    rejected: list[Rejected],
    on_image: Callable[[], None],
) -> Iterator[CheckedImage]:
    """The images that can be used; the others go to `rejected`."""
    for image in checked:
        on_image()
        if isinstance(image, CheckedImage):
            yield image
        else:
            file, reason = image
            rejected.append(Rejected(path=file.path, reason=reason, domain=file.domain, label=label[file.class_folder]))


def _write_domain(
    folder: Path, domain: str, images: Iterator[CheckedImage], label: dict[str, int], shard_images: int
) -> Iterator[Shard]:
    first = 0
    while batch := list(islice(images, shard_images)):
        name = f"{path_name(domain)}/{first // shard_images}.tar"
        keys = [f"{path_name(domain)}/{first + row:08d}" for row in range(len(batch))]
        yield _write_shard(folder, name, domain, dict(zip(keys, batch, strict=True)), label)
        first += len(batch)
    nshards = -(-first // shard_images)
    write_whole(folder / path_name(domain) / "nshards.txt", f"{nshards}\n".encode())


def _write_shard(folder: Path, name: str, domain: str, images: dict[str, CheckedImage], label: dict[str, int]) -> Shard:
    def write(file: BinaryIO) -> None:
        # A fixed owner, mode and time: the same images give the same bytes.
        with webdataset.TarWriter(file, encoder=False, mtime=0, user="fastclip", group="fastclip") as tar:
            for key, image in images.items():
                text = str(label[image.file.class_folder]).encode()
                tar.write({"__key__": key, image.extension: image.data, "cls": text})

    temporary = write_temporary(folder / name, write)
    with tarfile.open(temporary) as tar:
        offsets = {member.name: member.offset_data for member in tar}
    records = [
        ImageRecord(
            key=key,
            label=label[image.file.class_folder],
            path=image.file.path,
            offset=offsets[f"{key}.{image.extension}"],
            size=len(image.data),
            height=image.height,
            width=image.width,
        )
        for key, image in images.items()
    ]
    index = json_lines(records)
    shard = Shard(
        name=name,
        domain=domain,
        images=len(records),
        bytes=temporary.stat().st_size,
        sha256=digest_file(temporary),
        index_sha256=digest(index),
    )
    write_whole(folder / shard.index_name, index)
    publish(temporary, folder / name)
    return shard


def _publish_dataset(folder: Path, manifest: Manifest, rejected: list[Rejected]) -> None:
    write_whole(folder / "classnames.txt", "".join(f"{name}\n" for name in manifest.names).encode())
    write_whole(folder / REJECTED, json_lines(rejected))
    remove_stale_shards(folder, manifest)
    write_whole(folder / MANIFEST, manifest.to_json())
