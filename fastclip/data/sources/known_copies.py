"""Reads copies of known datasets: domains and classes by the names on a card, below any folders."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fastclip.data.catalogue import DatasetCard, DomainCard, same_name
from fastclip.data.classes import ClassFinder
from fastclip.data.shards.manifest import Rejected
from fastclip.data.sources.blobs import Blob
from fastclip.data.sources.containers import BlobReader
from fastclip.data.sources.leftovers import NO_IMAGE, reason_of
from fastclip.data.sources.listing import Listing, SourceImage, in_order, with_distinct_paths
from fastclip.data.sources.split_lists import find_split_lists, read_split_lists
from fastclip.errors import UserError
from fastclip.files import digest

SPLITS = frozenset(("train", "val", "crossval", "test", "full"))
"""Folders between a domain and its classes that divide its images, in copies of known datasets."""

WRAPPERS = SPLITS | {"images"}
"""All folders that may stand between a domain and its classes there."""


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
class KnownCopy:
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
        if unnamed := not places and len(self.card.domains) == 1:
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
        images += self._other_files(unnamed, places.keys())
        return Listing(
            layout=", ".join(["domain/class/image", *sorted(self._layouts)]),
            classes=self.card.classes,
            names=self.card.names,
            domains=tuple(domain.name for domain in domains),
            images=in_order(images, [domain.name for domain in domains]),
            rejected=tuple(sorted(self.rejected, key=lambda row: row.path)),
        )

    def _other_files(self, unnamed: bool, domains: Collection[str]) -> Iterator[SourceImage]:
        """Files that are no images: in a class folder they count as unreadable, unless a rule knows their names."""
        for path in sorted(self.files.keys() - set(self.image_paths)):
            reason = reason_of(path)
            domain, place = (
                (self.card.domains[0].name, self._below(path, 0)) if unnamed else self._place(path) or ("", None)
            )
            if reason != NO_IMAGE or place is None or place.label is None or domain not in domains or self._with_lists:
                self.rejected.append(Rejected(path=path, reason=reason))
            else:
                member = f"{self.card.classes[place.label]}/{place.rest}"
                yield SourceImage(domain, place.label, member, path, self.files[path])

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
