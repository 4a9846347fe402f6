"""Recognises how a copy of a dataset is laid out, and turns it into a listing that does not depend on that."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from fastclip.data.catalogue import DatasetCard, readable_name
from fastclip.data.classes import one_form
from fastclip.data.shards.manifest import Rejected
from fastclip.data.sources.archives import ARCHIVES, unread_archive
from fastclip.data.sources.blobs import Blob
from fastclip.data.sources.camera_traps import list_camera_traps
from fastclip.data.sources.known_copies import KnownCopy
from fastclip.data.sources.leftovers import is_text, leftover, reason_of
from fastclip.data.sources.listing import Listing, SourceImage, in_order, of_split, with_distinct_paths
from fastclip.data.sources.parquet import list_parquet
from fastclip.data.sources.pieces import Piece, check_whole, grouped, pieces
from fastclip.data.sources.readings import Reading, read_tree
from fastclip.data.sources.samples import check_no_labels
from fastclip.data.sources.trees import Tree, find_images, list_tree, stem
from fastclip.data.sources.webdataset import list_webdataset
from fastclip.data.twins import check_twins
from fastclip.errors import UserError


def list_source(
    source: Path, card: DatasetCard | None, *, layout: str | None = None, split: str | None = None
) -> Listing:
    """List the images in `source`: a folder or archive of images, Parquet files, or WebDataset shards.

    With a card, its domains and class order are taken, and any layout that copies of the dataset have. Without one,
    `layout` says what folders mean (see `fastclip.data.sources.readings`), and `split` which one of several is taken.
    Raises `UserError` when there is no image, when it can be read in two ways, or when folders contradict the card.
    """
    if not source.exists():
        raise UserError(f"There is no {source}.", fix="--source PATH, of a folder, an archive or a Parquet file")
    source = _with_suffix(source)
    listing = list_webdataset(source, card) or list_parquet(source, card)
    if listing is None:
        return list_images(source, card, layout=layout, split=split)
    if layout:
        raise UserError(
            f"{source} is read as {listing.layout}: there is no layout to choose.", fix="Leave out --layout."
        )
    return of_split(listing, split, str(source)) if split else listing


def _with_suffix(source: Path) -> Path:
    """The path of `source` from the root, by which archives are remembered: without links, but for those of a file.

    The Hugging Face cache's files have their suffixes by links to files without any.
    """
    while source.is_file() and source.is_symlink() and not source.name.lower().endswith((".parquet", *ARCHIVES)):
        source = source.parent / source.readlink()
    return source.parent.resolve() / source.name if source.is_file() else source.resolve()


def list_images(
    source: Path, card: DatasetCard | None, *, layout: str | None = None, split: str | None = None
) -> Listing:
    """List the image files in the folder or archive `source`, as `list_source` does."""
    tree = list_tree(source)
    _check_archives(tree)
    if card is None:
        listing = _plain_tree(tree, layout, split)
    elif layout or split:
        option = "--layout" if layout else "--split"
        raise UserError(f"{card.title}'s card says what its folders mean.", fix=f"Leave out {option}.")
    else:
        listing = _known(tree, card)
    return replace(listing, rejected=(*listing.rejected, *_of_archives(tree)))


def _known(tree: Tree, card: DatasetCard) -> Listing:
    """The listing of a copy of a dataset that has a card."""
    error = UserError(
        f"{tree.source} holds no domain of {card.title} (looked for {', '.join(each.name for each in card.domains)}).",
        fix=f"fastclip datasets show {card.name} lists the layouts; or shard under another NAME.",
    )
    for number, unpacked in enumerate((tree.in_place, tree.apart) if tree.packed else (tree.in_place,)):
        try:
            files = unpacked()
            images = _images(tree, files)
            copy = KnownCopy(tree.source, files, images, card)
            if listing := copy.listing() or list_camera_traps(files, images, card):
                return listing
        except UserError as found:
            error = error if number else found
    raise error


def _images(tree: Tree, files: Mapping[str, Blob]) -> list[str]:
    images = find_images(files)
    if not images:
        raise UserError(
            f"{tree.source} holds no images.", fix="Expected DOMAIN/CLASS/IMAGE or CLASS/IMAGE under --source."
        )
    check_no_labels(files)
    return images


def _check_archives(tree: Tree) -> None:
    """Raise `UserError` for an archive that is not read, by its kind or because it lies in another.

    One that lies there unpacked, or whose name is that of a packed text, holds no images that would be missed.
    """
    for archive in ("", *tree.packed):
        members = tree.archives[archive] if archive else tree.loose
        for path in filter(_unread, members):
            inside = path.partition(".")[0] + "/"
            if is_text(posixpath.splitext(path)[0]) or any(other.startswith(inside) for other in members):
                continue
            raise UserError(
                f"{tree.source} holds {posixpath.join(archive, path)}, an archive that is not read ({_unread(path)}): "
                "images in it would be missed.",
                fix=f"Unpack {archive or tree.source.name} and move it out of --source."
                if archive or tree.source.is_file()
                else "Unpack it and move it out of --source, or pack it as zip, tar or tar.gz.",
            )


def _unread(path: str) -> str | None:
    """Why an archive among the files of a source is not read; None for any other file."""
    kind = unread_archive(path) or ("in an archive" if path.lower().endswith(ARCHIVES) else None)
    return kind if kind and not leftover(path) else None


def _of_archives(tree: Tree) -> Iterator[Rejected]:
    """A row for each archive that lies there unpacked, and for each member that a loose file hides."""
    for path in sorted(tree.unpacked):
        yield Rejected(path=path, reason="an archive that lies there unpacked")
    for archive in tree.packed:
        for member in tree.archives[archive]:
            if posixpath.join(posixpath.dirname(archive), member) in tree.loose:
                yield Rejected(path=f"{archive}/{member}", reason="lies there unpacked")


def _plain_tree(tree: Tree, layout: str | None, split: str | None) -> Listing:
    """The listing of a tree without a card: class folders in sorted order."""
    files, reading = _read(tree, layout, split)
    names = tuple(sorted(set(map(one_form, reading.classes))))
    label = {name: number for number, name in enumerate(names)}
    places = {**reading.places, **reading.of_other_files(path for path in files if not leftover(path))}
    found = [
        SourceImage(place.domain, label[name], f"{name}/{place.rest}", path, files[path])
        for path, place in places.items()
        for name in [one_form(place.class_folder)]
    ]
    listing = Listing(
        layout=f"{reading.layout}/image",
        classes=names,
        names=tuple(map(readable_name, names)),
        domains=tuple(reading.domains),
        images=in_order(with_distinct_paths(found), reading.domains),
        rejected=tuple(
            Rejected(path=path, reason=reading.left.get(path) or reason_of(path))
            for path in sorted(files.keys() - places.keys())
        ),
    )
    check_twins(listing)
    return listing


def _read(tree: Tree, layout: str | None, split: str | None) -> tuple[dict[str, Blob], Reading]:
    """The files, with archives unpacked in place or each into a folder of its name, and the reading that fits."""

    def read(unpacked: Callable[[], dict[str, Blob]]) -> tuple[dict[str, Blob], Reading]:
        files = unpacked()
        return files, read_tree(str(tree.source), _images(tree, files), layout, split)

    if not tree.packed:
        return read(tree.in_place)
    share = () if layout else tree.with_equal_folders
    groups = grouped(pieces(tree.source, [tree.source / each for each in tree.packed]))
    numbered = [group for group in groups if group[1:]]
    first, second = (tree.apart, tree.in_place) if share else (tree.in_place, tree.apart)
    try:
        found = read(first)
    except UserError as error:
        if share and not numbered:
            raise
        try:
            found = read(second)
        except UserError:
            raise error from None
        if layout and any("/" in place.rest for place in found[1].places.values()):
            raise  # the layout does not name the archives' own folders
    else:
        if share and numbered:
            _check_no_pieces(tree.source, numbered[0], found[1], partial(read, second))
    _check_pieces(numbered, found[1])
    return found


def _check_no_pieces(
    source: Path, group: Sequence[Piece], apart: Reading, read: Callable[[], tuple[dict[str, Blob], Reading]]
) -> None:
    """Raise `UserError` if archives, which can be read `apart`, can be read as pieces of one whole too."""
    try:
        _, whole = read()
    except UserError:
        return
    raise UserError(
        f"{source} can be read in two ways: {group[0].path.name} and {group[1].path.name} as pieces, or each as a "
        "domain.",
        fix=f"--layout {whole.layout} for pieces, --layout {apart.layout} for domains",
    )


def _check_pieces(numbered: Iterable[Sequence[Piece]], reading: Reading) -> None:
    """Raise `UserError` if one of several numbered archives is missing. Years, classes and domains are no numbers."""
    folders = {*reading.classes, *reading.domains}
    for group in numbered:
        counted = all(len(piece.number) < 4 or piece.number.startswith("0") for piece in group)
        if counted and not folders.issuperset(stem(piece.path.name) for piece in group):
            check_whole(group, from_one=True)
