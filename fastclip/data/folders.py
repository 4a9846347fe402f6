"""Finds the labelled images in a folder tree: `domain/class/image` or `class/image`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastclip.data.catalogue import DatasetCard
from fastclip.errors import UserError

# What torchvision's ImageFolder would load, and GIF and AVIF: a file with such a name counts as an image, so if it
# cannot be used it is an unreadable image of its class and not just another file.
IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif")
)

ONLY_DOMAIN = "all"
"""The name of the one domain of a `class/image` tree."""


@dataclass(frozen=True)
class ImageFile:
    """An image of the source tree. `path` is relative to the source folder, with forward slashes."""

    path: str
    domain: str
    class_folder: str


@dataclass(frozen=True)
class FolderListing:
    """Everything that lies in a source folder: nothing that was found is left out."""

    classes: tuple[str, ...]
    """Class folders in label order."""
    domains: tuple[str, ...]
    images: tuple[ImageFile, ...]
    """Sorted by domain (in the order of `domains`), label, path."""
    other_files: tuple[str, ...]
    """Files that are no images of a class, relative to the source folder."""


def list_folder(source: Path, card: DatasetCard | None) -> FolderListing:
    """List the images under `source`; with a card, its domains and class order are taken.

    Raises `UserError` when there is no image, when two layouts are mixed, or when folders contradict the card.
    """
    if not source.is_dir():
        raise UserError(f"{source} is not a folder.", fix="Give the dataset's top folder: --source DIR")
    files = sorted(_walk(source))
    images = [path for path in files if Path(path).suffix.lower() in IMAGE_SUFFIXES]
    domain_folders = _domains_of_card(images, card, source) if card else _domains_of_tree(images, source)
    found, taken = _assign(images, domain_folders)
    classes = _classes({image.class_folder for image in found}, card)
    label = {folder: index for index, folder in enumerate(classes)}
    order = {domain: index for index, domain in enumerate(domain_folders.values())}
    found.sort(key=lambda image: (order[image.domain], label[image.class_folder], image.path))
    return FolderListing(
        classes=classes,
        domains=tuple(domain_folders.values()),
        images=tuple(found),
        other_files=tuple(path for path in files if path not in taken),
    )


def _walk(source: Path) -> Iterator[str]:
    """Every file under `source`, through links too. What cannot be listed or named is an error, never left out."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be listed: {error.strerror}.", fix="Give yourself access to it.")

    seen = {source.resolve()}
    for folder, subfolders, names in os.walk(source, followlinks=True, onerror=refuse):
        base = Path(folder).relative_to(source)
        for name in subfolders:
            target = (Path(folder) / name).resolve()
            if (Path(folder) / name).is_symlink() and any(target == each or target in each.parents for each in seen):
                raise UserError(
                    f"{base / name} links to a folder that holds it.", fix="Remove the link: it would repeat images."
                )
            seen.add(target)
        for name in names:
            path = (base / name).as_posix()
            try:
                path.encode()
            except UnicodeEncodeError:
                raise UserError(f"The name {path!r} is not UTF-8.", fix="Rename the file or folder.") from None
            yield path


def _domains_of_card(images: list[str], card: DatasetCard, source: Path) -> dict[str, str]:
    """Folder → domain for each domain of the card that lies under `source`."""
    folders = {}
    for domain in card.domains:
        here = [folder for folder in domain.folders if any(path.startswith(f"{folder}/") for path in images)]
        if here:
            folders[here[0]] = domain.name
    if not folders:
        names = ", ".join(domain.name for domain in card.domains)
        raise UserError(
            f"{source} holds no domain of {card.title} (looked for {names}).",
            fix=f"Point --source at the folder that holds {card.domains[0].name}/CLASS/IMAGE, or use another NAME.",
        )
    return folders


def _domains_of_tree(images: list[str], source: Path) -> dict[str, str]:
    """Folder → domain as the tree itself shows: images at depth 2 make one domain, at depth 3 one a top folder."""
    shallow = [path for path in images if path.count("/") <= 1]
    deep = [path for path in images if path.count("/") >= 2]
    if not images:
        raise UserError(f"{source} holds no images.", fix="Expected DOMAIN/CLASS/IMAGE or CLASS/IMAGE under --source.")
    if not deep and all("/" in path for path in shallow):
        return {"": ONLY_DOMAIN}
    if deep and not shallow:
        return {folder: folder for folder in sorted({path.split("/")[0] for path in deep})}
    raise UserError(
        f"{source} mixes layouts: {shallow[0]}" + (f" lies beside {deep[0]}." if deep else " has no class folder."),
        fix="Move the odd ones away, so that every image is DOMAIN/CLASS/IMAGE, or every one CLASS/IMAGE.",
    )


def _assign(images: list[str], domain_folders: dict[str, str]) -> tuple[list[ImageFile], set[str]]:
    found, taken = [], set()
    for folder, domain in domain_folders.items():
        prefix = f"{folder}/" if folder else ""
        for path in images:
            class_folder, slash, _ = path.removeprefix(prefix).partition("/")
            if path.startswith(prefix) and slash:
                found.append(ImageFile(path, domain, class_folder))
                taken.add(path)
    return found, taken


def _classes(folders: set[str], card: DatasetCard | None) -> tuple[str, ...]:
    if card is None:
        return tuple(sorted(folders))
    if unknown := sorted(folders - set(card.classes)):
        raise UserError(
            f"{card.title} has no class folder named {', '.join(unknown[:5])}; it has {', '.join(card.classes[:8])}"
            + (", …" if len(card.classes) > 8 else "."),
            fix="Rename or move those folders, or shard under another NAME to take the classes as they are.",
        )
    return card.classes
