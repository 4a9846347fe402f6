"""Miniature copies of the eight datasets, in every layout that their copies have."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from helpers import write
from PIL import Image

from fastclip.data.catalogue import DatasetCard


@dataclass(frozen=True)
class Item:
    """One image: the domain, class folder and file name that it has in the listing, and its bytes."""

    domain: str
    folder: str
    file: str
    data: bytes


Files = dict[str, bytes]


def draw(card: DatasetCard, per_class: int = 2, classes: int = 6) -> list[Item]:
    """Different small images of the first and last classes of every domain."""
    folders = dict.fromkeys([*card.classes[: classes // 2], *card.classes[-classes // 2 :]])
    items = []
    for domain_number, domain in enumerate(card.domains):
        for folder in folders:
            for number in range(per_class):
                file = io.BytesIO()
                colour = (domain_number * 40, card.classes.index(folder) % 256, number * 90)
                Image.new("RGB", (9 + number, 7), colour).save(file, "PNG" if number % 2 else "JPEG", quality=95)
                # No two images alike: the class number beyond 255 goes into bytes that decoders skip.
                data = file.getvalue() + card.classes.index(folder).to_bytes(2, "big")
                file_name = f"{domain_number}_{folder}_{number}.{'png' if number % 2 else 'jpg'}"
                items.append(Item(domain.name, folder, file_name, data))
    return items


def tree(
    items: list[Item], path: Callable[[Item], str] = lambda item: f"{item.domain}/{item.folder}/{item.file}"
) -> Files:
    return {path(item): item.data for item in items}


def folder_name(card: DatasetCard, domain: str) -> str:
    """DomainBed's name of a domain's folder."""
    found = next(each for each in card.domains if each.name == domain)
    return found.folders[0] if found.folders else domain


def domainbed(card: DatasetCard, items: list[Item]) -> Files:
    return tree(items, lambda item: f"{folder_name(card, item.domain)}/{item.folder}/{item.file}")


def lower_case_train_val(card: DatasetCard, items: list[Item]) -> Files:
    """As Dassl keeps Office-Home for domain generalisation: lower case, two splits."""

    def path(item: Item) -> str:
        domain = folder_name(card, item.domain).lower().replace(" ", "_")
        return f"office_home_dg/{domain}/{'val' if item.file.endswith('png') else 'train'}/{item.folder}/{item.file}"

    return tree(items, path)


def images_between(card: DatasetCard, items: list[Item]) -> Files:
    """As Office-31 is published."""
    return tree(items, lambda item: f"domain_adaptation_images/{item.domain}/images/{item.folder}/{item.file}")


def kfold(card: DatasetCard, items: list[Item]) -> Files:
    """As PACS is published, with the lists that nobody needs."""
    files = tree(items, lambda item: f"PACS/kfold/{item.domain}/{item.folder}/{item.file}")
    rows = [f"{item.domain}/{item.folder}/{item.file} {card.classes.index(item.folder) + 1}" for item in items]
    return files | {"PACS/splits/photo_train_kfold.txt": "\n".join(rows[:3]).encode()}


def numbered_splits(card: DatasetCard, items: list[Item]) -> Files:
    """As VLCS is published: class numbers, and `full` repeats `train` and `crossval` but not `test`."""
    files: Files = {}
    for number, item in enumerate(items):
        place = f"{next(d for d in card.domains if d.name == item.domain).folders[-1]}/{{}}"
        name = f"{place}/{card.classes.index(item.folder)}/{item.file}"
        for split in (["test"], ["full", "train"], ["full", "crossval"])[number % 3]:
            files[name.format(split)] = item.data
    return files


def split_lists(card: DatasetCard, items: list[Item]) -> Files:
    """As DomainNet is published: lists of what counts, and images that no list names."""
    files = tree(items)
    lists: dict[str, list[str]] = {}
    for number, item in enumerate(items):
        name = f"{item.domain}_{'test' if number % 3 else 'train'}.txt"
        lists.setdefault(name, []).append(f"{item.domain}/{item.folder}/{item.file} {number}")
        files[f"{item.domain}/{item.folder}/unlisted{item.file}"] = b"x" + item.data
    return files | {name: ("\n".join(rows) + "\n").encode() for name, rows in lists.items()}


def camera_traps(card: DatasetCard, items: list[Item], parts: int = 1, number: type = str) -> Files:
    """As TerraIncognita is published: COCO-style annotations of uuid-like names in one folder."""
    categories = [{"id": label + 3, "name": name} for label, name in enumerate([*card.classes, "car"])]
    images = {item.file: item for item in items}
    rows = [
        {"id": name, "file_name": name, "location": number(folder_name(card, item.domain).removeprefix("location_"))}
        for name, item in images.items()
    ]
    rows.append({"id": "elsewhere", "file_name": "elsewhere.jpg", "location": number(7)})
    boxes = [{"image_id": item.file, "category_id": card.classes.index(item.folder) + 3} for item in items]
    boxes += [boxes[0], {"image_id": "elsewhere", "category_id": 3}]  # one animal twice, another place
    boxes.append({"image_id": items[1].file, "category_id": len(card.classes) + 3})  # and a car that passes
    documents = [{"images": rows, "categories": categories, "annotations": boxes[part::parts]} for part in range(parts)]
    files = {f"annotations/{part}.json": json.dumps(document).encode() for part, document in enumerate(documents)}
    files |= {f"eccv_18_all_images_sm/{name}": item.data for name, item in images.items()}
    return files | {"eccv_18_all_images_sm/elsewhere.jpg": items[0].data + b"x"}


def beside_training(card: DatasetCard, items: list[Item]) -> Files:
    """As VisDA-17 is unpacked: other images of the same classes in `train`, a list beside the class folders."""
    files = tree(items, lambda item: f"visda/validation/{item.folder}/{item.file}")
    files |= tree(items[:3], lambda item: f"visda/train/{item.folder}/{item.file}")
    rows = [f"{item.folder}/{item.file} {card.classes.index(item.folder)}" for item in items]
    return files | {"visda/validation/image_list.txt": "\n".join(rows).encode()}


def listed_only(card: DatasetCard, items: list[Item]) -> Files:
    """VisDA-17 by its list: the folders say nothing."""
    files = tree(items, lambda item: f"validation/trunk/{item.file}")
    rows = [f"trunk/{item.file} {card.classes.index(item.folder)}" for item in items]
    return files | {"validation/image_list.txt": "\n".join(rows).encode()}


def only_classes(card: DatasetCard, items: list[Item]) -> Files:
    return tree(items, lambda item: f"{item.folder}/{item.file}")


def to_zip(files: Files, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def to_tar(files: Files, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def to_parquet(card: DatasetCard, items: list[Item], path: Path, order: Callable[[str], Any] = str) -> Path:
    """As Hugging Face saves images: bytes and name, numbers with names, in any order of classes."""
    names = sorted(card.classes, key=order)
    features = {"label": {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    table = pa.table(
        {
            "image": [{"bytes": item.data, "path": item.file} for item in items],
            "domain": [folder_name(card, item.domain) for item in items],
            "label": [names.index(item.folder) for item in items],
        }
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=7)
    return path


def clip_benchmark(card: DatasetCard, items: list[Item]) -> Files:
    """As CLIP_benchmark exports: a folder a split, no names of files."""
    files: Files = {"classnames.txt": "".join(f"{name}\n" for name in card.names).encode()}
    for domain in card.domains:
        rows = [item for item in items if item.domain == domain.name]
        members: Files = {}
        for number, item in enumerate(rows):
            members[f"s{number:07d}.{item.file.rpartition('.')[2]}"] = item.data
            members[f"s{number:07d}.cls"] = str(card.classes.index(item.folder)).encode()
        for shard, start in enumerate(range(0, len(members), 10)):
            path = f"{domain.name}/{shard}.tar"
            files[path] = tar_bytes(dict(list(members.items())[start : start + 10]))
        files[f"{domain.name}/nshards.txt"] = f"{-(-len(members) // 10)}\n".encode()
    return files


def tar_bytes(files: Files) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


Make = Callable[[DatasetCard, list[Item], Path], Path]
"""Puts a copy into a folder, and returns what --source is."""


def as_folder(files: Callable[[DatasetCard, list[Item]], Files]) -> Make:
    return lambda card, items, folder: write(folder, files(card, items))


def as_archive(suffix: str) -> Make:
    def make(card: DatasetCard, items: list[Item], folder: Path) -> Path:
        path = folder / f"{card.name}{suffix}"
        files = domainbed(card, items)
        return to_zip(files, path) if suffix == ".zip" else to_tar(files, path)

    return make


def archive_a_domain(card: DatasetCard, items: list[Item], folder: Path) -> Path:
    """As DomainNet is downloaded: an archive a domain in one folder."""
    for domain in card.domains:
        to_zip(tree([item for item in items if item.domain == domain.name]), folder / "zips" / f"{domain.name}.zip")
    return folder


ANY: dict[str, Make] = {
    "domainbed": as_folder(domainbed),
    "zip": as_archive(".zip"),
    "tar": as_archive(".tar"),
    "tar.gz": as_archive(".tar.gz"),
    "a zip a domain": archive_a_domain,
}
SPECIAL: dict[str, dict[str, Make]] = {
    "officehome": {"dassl": as_folder(lower_case_train_val)},
    "office31": {"official": as_folder(images_between)},
    "pacs": {"kfold": as_folder(kfold)},
    "vlcs": {"splits": as_folder(numbered_splits)},
    "domainnet": {"lists": as_folder(split_lists)},
    "terraincognita": {
        "annotations of 2021": as_folder(camera_traps),
        "annotations of 2018": as_folder(lambda card, items: camera_traps(card, items, 5, int)),
    },
    "visda17": {
        "beside train": as_folder(beside_training),
        "listed": as_folder(listed_only),
        "classes": as_folder(only_classes),
    },
    "imagenet-r": {"classes": as_folder(only_classes)},
}


def layouts() -> Iterator[tuple[str, str, Make]]:
    """(dataset, layout, how to make it) for every layout that keeps the names of files."""
    for dataset, special in SPECIAL.items():
        for layout, make in (ANY | special).items():
            yield dataset, layout, make
