"""Recognises how a copy of a dataset is laid out, and turns it into a listing that does not depend on that."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from fastclip.data.catalogue import DatasetCard, DomainCard, readable_name, same_name
from fastclip.data.classes import ClassFinder, one_form
from fastclip.data.shards.manifest import Rejected
from fastclip.data.sources.archives import ARCHIVES, unread_archive
from fastclip.data.sources.blobs import Blob
from fastclip.data.sources.camera_traps import list_camera_traps
from fastclip.data.sources.containers import BlobReader
from fastclip.data.sources.leftovers import NO_IMAGE, is_text, leftover, reason_of
from fastclip.data.sources.listing import Listing, SourceImage, in_order, of_split, with_distinct_paths
from fastclip.data.sources.parquet import list_parquet
from fastclip.data.sources.pieces import Piece, check_whole, grouped, pieces
from fastclip.data.sources.readings import Reading, read_tree
from fastclip.data.sources.samples import check_no_labels
from fastclip.data.sources.split_lists import find_split_lists, read_split_lists
from fastclip.data.sources.trees import Tree, find_images, list_tree, stem
from fastclip.data.sources.webdataset import list_webdataset
from fastclip.data.twins import check_twins
from fastclip.errors import UserError
from fastclip.files import digest

SPLITS = frozenset(("train", "val", "crossval", "test", "full"))
"""Folders between a domain and its classes that divide its images, in copies of known datasets."""

WRAPPERS = SPLITS | {"images"}
"""All folders that may stand between a domain and its classes there."""


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
            copy = _Copy(tree.source, files, images, card)
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
            check_whole(group)


@dataclass
class _Place:
    """Where an image of a domain lies: ROOT[/WRAPPER…][/CLASS]/REST."""

    path: str
    root: str
    splits: tuple[str, ...]
    label: int | None
    unknown: str = ""
    """The folder in the place of a class that is not one."""
    rest: str = ""

    @property
    def split(self) -> str:
        return "/".join(self.splits)


@dataclass
class _Copy:
    """A copy of a dataset that has a card."""

    source: Path
    files: Mapping[str, Blob]
    image_paths: list[str]
    card: DatasetCard
    rejected: list[Rejected] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._domain_of = self.card.domain_of
        self._label_of = ClassFinder(self.card).of_folder
        self._layouts: set[str] = set()
        self._with_lists: list[str] = []
        self._reader = BlobReader()

    def listing(self) -> Listing | None:
        """The images of the card's domains; None if the source holds none of them."""
        places: dict[str, list[_Place]] = {}
        lost = []
        for path in self.image_paths:
            found = self._place(path)
            if found is None:
                lost.append(path)
            else:
                places.setdefault(found[0], []).append(found[1])
        if not places and len(self.card.domains) == 1:
            places, lost = self._unnamed_domain(lost)
        if not places:
            return None
        domains = [domain for domain in self.card.domains if domain.name in places]
        images = [image for domain in domains for image in self._images(domain, places[domain.name])]
        if self._with_lists and (unlisted := [d.name for d in domains if d.name not in self._with_lists]):
            raise UserError(
                f"Lists say which images of {self._with_lists[0]} count, but there are none for {unlisted[0]}.",
                fix="Get its lists too, or move the others away: two releases would be mixed.",
            )
        self.rejected += [Rejected(path=path, reason=f"in no domain of {self.card.title}") for path in lost]
        images += self._other_files()
        return Listing(
            layout=", ".join(["domain/class/image", *sorted(self._layouts)]),
            classes=self.card.classes,
            names=self.card.names,
            domains=tuple(domain.name for domain in domains),
            images=in_order(images, [domain.name for domain in domains]),
            rejected=tuple(sorted(self.rejected, key=lambda row: row.path)),
        )

    def _other_files(self) -> Iterator[SourceImage]:
        """Files that are no images: in a class folder they count as unreadable, unless a rule knows their names."""
        for path in sorted(self.files.keys() - set(self.image_paths)):
            reason = reason_of(path)
            found = self._place(path) if reason == NO_IMAGE else None
            label = found[1].label if found else None
            if not found or label is None:
                self.rejected.append(Rejected(path=path, reason=reason))
            else:
                member = f"{self.card.classes[label]}/{found[1].rest}"
                yield SourceImage(found[0], label, member, path, self.files[path])

    def _place(self, path: str) -> tuple[str, _Place] | None:
        """The domain that the image lies in and where, by the names of the folders above it."""
        parts = path.split("/")[:-1]
        best = None
        for depth, part in enumerate(parts):
            if domain := self._domain_of.get(same_name(part)):
                place = self._below(path, depth + 1)
                if place.label is not None:
                    return domain, place
                best = best or (domain, place)
        return best

    def _below(self, path: str, depth: int) -> _Place:
        """The place of an image by the folders of `path` from `depth` on: wrappers, then the class."""
        parts = path.split("/")
        root, folders = "/".join(parts[:depth]), parts[depth:-1]
        for index, folder in enumerate(folders):
            wraps = folder.casefold() in WRAPPERS
            if wraps and index + 1 < len(folders) and self._label_of(folders[index + 1]) is not None:
                continue  # a class may be called `train`
            label = self._label_of(folder)
            if label is None and wraps:
                continue
            splits = tuple(part for part in map(str.casefold, folders[:index]) if part in SPLITS)
            rest = "/".join(parts[depth + index + 1 :])
            return _Place(path, root, splits, label, "" if label is not None else folder, rest)
        return _Place(path, root, (), None, "", parts[-1])

    def _unnamed_domain(self, paths: list[str]) -> tuple[dict[str, list[_Place]], list[str]]:
        """The places of images whose class folders lie right in the source, as the only domain; and other paths."""
        places = {path: self._below(path, 0) for path in paths}
        placed = {path: place for path, place in places.items() if place.label is not None and not place.splits}
        found = {self.card.domains[0].name: list(placed.values())} if placed else {}
        return found, [path for path in paths if path not in placed]

    def _images(self, domain: DomainCard, places: list[_Place]) -> list[SourceImage]:
        roots = sorted({place.root for place in places})
        if len(roots) > 1:
            raise UserError(
                f"{self.card.title}'s {domain.name} lies in two places: {roots[0]} and {roots[1]}.",
                fix="Point --source at one copy, or move the other away.",
            )
        places = self._listed(domain, places, roots[0])
        bare = [place for place in places if place.label is None and not place.unknown]
        self.rejected += [Rejected(path=place.path, reason="not in a class folder") for place in bare]
        if unknown := sorted({place.unknown for place in places if place.unknown}):
            raise UserError(
                f"{self.card.title} has no class folder named {', '.join(unknown[:5])}; it has "
                f"{', '.join(self.card.classes[:8])}" + (", …" if len(self.card.classes) > 8 else "."),
                fix="Rename or move those folders, or shard under another NAME to take the classes as they are.",
            )
        places = self._merged([place for place in places if place.label is not None])
        return with_distinct_paths(
            [
                SourceImage(
                    domain.name,
                    place.label,
                    f"{self.card.classes[place.label]}/{place.rest}",
                    place.path,
                    self.files[place.path],
                )
                for place in places
                if place.label is not None
            ]
        )

    def _listed(self, domain: DomainCard, places: list[_Place], root: str) -> list[_Place]:
        """The `places` that the domain's split lists name; all of them if the copy has no such lists."""
        lists = find_split_lists(self.files, self.card, domain, root)
        if not lists:
            return places
        self._layouts.add("split lists")
        self._with_lists.append(domain.name)
        listed = read_split_lists(lists, self._read, len(self.card.classes))
        prefixes = [f"{posixpath.dirname(root)}/".removeprefix("/"), f"{root}/".removeprefix("/")]
        kept, used = [], set()
        for place in places:
            spellings = [place.path.removeprefix(prefix) for prefix in prefixes]
            if found := next((name for name in spellings if name in listed), None):
                used.add(found)
                if place.label is None:
                    place.label, place.unknown = listed[found][0], ""
                kept.append(place)
            else:
                self.rejected.append(Rejected(path=place.path, reason=f"not in {', '.join(lists)}"))
        for name in sorted(listed.keys() - used):
            number, path = listed[name]
            label = self._label_of(posixpath.basename(posixpath.dirname(name)))
            label = number if label is None else label
            self.rejected.append(
                Rejected(path=name, reason=f"listed in {path} but absent", domain=domain.name, label=label)
            )
        return kept

    def _read(self, path: str) -> bytes:
        try:
            return self._reader.read(self.files[path])
        except (ValueError, OSError) as error:
            raise UserError(
                f"{path} cannot be read: {error}.", fix="It decides what belongs to the set. Get it again."
            ) from error

    def _merged(self, places: list[_Place]) -> list[_Place]:
        """The images of all splits, each once. Beside `full`, a split that repeats it (by content) is left out.

        VLCS's `full` is `train` and `crossval`, but not `test`.
        """
        splits = {place.split for place in places}
        if len(splits) > 1:
            self._layouts.add(f"splits merged ({', '.join(sorted(splits))})")
        if "full" not in splits or len(splits) == 1:
            return places
        digests = {place.path: digest(self._read(place.path)) for place in places}
        full = {digests[place.path]: place.path for place in places if place.split == "full"}
        kept = [place for place in places if place.split == "full"]
        for split in sorted(splits - {"full"}):
            here = [place for place in places if place.split == split]
            repeats = [place for place in here if digests[place.path] in full]
            if len(repeats) < len(here) / 2:
                kept += here  # a chance duplicate or two does not make it a part of `full`
                continue
            kept += [place for place in here if digests[place.path] not in full]
            self.rejected += [
                Rejected(path=place.path, reason=f"the same bytes as {full[digests[place.path]]}") for place in repeats
            ]
        return kept
