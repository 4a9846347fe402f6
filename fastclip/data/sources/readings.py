"""Reads a tree of folders in the one way that fits, or refuses: which folders are splits, domains and classes.

A layout is a word a folder, such as `split/domain/class`. Folders below the class belong to the file's name, as in
torchvision's ImageFolder.

    class     the class
    path      the class, together with all folders below it: `animals/dog` is the class `animals_dog`
    domain    the domain
    split     a split, which is a domain of its own: `photo-train`, or `train` where there are no domains
    skip      a folder that says nothing

Folders that say nothing are skipped before: `images/` or a repeated name where a folder holds nothing else.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from fastclip.data.catalogue import same_name
from fastclip.data.classes import one_form
from fastclip.data.sources.folder_names import BESIDE, COUNTED, DOMAINS, ID, PART, VIEWS, WRAPPERS
from fastclip.data.sources.leftovers import NO_IMAGE, reason_of
from fastclip.data.sources.listing import ONLY_DOMAIN
from fastclip.data.sources.splits import is_held_out, is_split, split_of
from fastclip.errors import UserError

ROLES = ("skip", "split", "domain", "class", "path")

EXPECTED = (
    "Expected DOMAIN/CLASS/IMAGE or CLASS/IMAGE. Labels in a table are not read: make a folder for "
    "each class, or a card (shards/README.md)."
)


@dataclass(frozen=True)
class Place:
    """The meaning of the folders above an image."""

    domain: str
    class_folder: str
    rest: str
    """The path below the class folder."""


@dataclass(frozen=True)
class Reading:
    """One way to read a tree."""

    layout: str
    places: Mapping[str, Place]
    """By path: the images that have a class."""
    left: Mapping[str, str]
    """Path → why an image is left over."""

    @property
    def domains(self) -> list[str]:
        """The domains, sorted."""
        return sorted({place.domain for place in self.places.values()})

    @property
    def classes(self) -> list[str]:
        """The class folders, sorted."""
        return sorted({place.class_folder for place in self.places.values()})

    def of_other_files(self, paths: Iterable[str]) -> dict[str, Place]:
        """The places of those files that are no images, that no rule knows, and that lie in a class folder."""
        others = [path for path in paths if path not in self.places and path not in self.left]
        others = [path for path in others if reason_of(path) == NO_IMAGE]
        if not others:
            return {}
        folders = {path.removesuffix(f"/{place.rest}"): place for path, place in self.places.items()}
        found = {}
        for path in others:
            above = path.split("/")[:-1]
            for depth in range(len(above), 0, -1):
                if place := folders.get("/".join(above[:depth])):
                    found[path] = Place(place.domain, place.class_folder, "/".join(path.split("/")[depth:]))
                    break
        return found

    def __str__(self) -> str:
        return f"{self.layout} (domains {_few(self.domains)}; classes {_few(self.classes)})"


@dataclass(frozen=True)
class _Image:
    """An image and the folders above it."""

    path: str
    folders: tuple[str, ...]
    kept: tuple[int, ...]
    """The positions of those that say something."""
    names: tuple[str, ...]
    """Those that say something."""

    def without_first(self) -> _Image:
        """The same, as if the first folder said nothing."""
        return _Image(self.path, self.folders, self.kept[1:], self.names[1:])


def read_tree(where: str, paths: Iterable[str], layout: str | None, split: str | None) -> Reading:
    """The reading of the image files `paths` by `layout`, or by the only one that fits.

    Of the splits, `split` is taken; None takes each as a domain of its own. Raises `UserError`, with two readings and
    the option that chooses, if several fit.
    """
    here: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        here[posixpath.dirname(path)].append(path)
    # All images of a folder are read alike, so the first one stands for them.
    read = _read_firsts(where, [of_folder[0] for of_folder in here.values()], layout, split)
    places: dict[str, Place] = {}
    left: dict[str, str] = {}
    for first, *others in here.values():
        if place := read.places.get(first):
            folder = place.rest[: len(place.rest) - len(posixpath.basename(first))]
            places[first] = place
            for path in others:
                places[path] = Place(place.domain, place.class_folder, folder + posixpath.basename(path))
        else:
            left |= dict.fromkeys((first, *others), read.left[first])
    return Reading(read.layout, places, left)


def _read_firsts(where: str, paths: Iterable[str], layout: str | None, split: str | None) -> Reading:
    """As `read_tree`, of one image a folder."""
    images = _without_wrappers(paths)
    folders = max(len(image.kept) for image in images) if layout is None else parse_layout(layout).count("/") + 1
    images, left = _without_unlabelled(images, folders)
    if layout is None:
        layout = _only_layout(where, images)
    else:
        images = _as_named(where, images, layout)
    reading = _read(images, layout, left)
    if split is not None:
        reading = _of_split(where, reading, images, layout, split)
    if len(reading.classes) < 2:
        raise UserError(
            f"{where} has one class, {reading.classes[0]!r} (read as {layout}/image): its accuracy means nothing.",
            fix=EXPECTED,
        )
    return reading


def parse_layout(layout: str) -> str:
    """`layout`, checked. Raises `UserError`."""
    roles = layout.split("/")
    named = [role for role in roles if role != "skip"]
    one_class = ("class" in roles) != (roles[-1] == "path")
    if set(roles) - set(ROLES) or len(set(named)) != len(named) or "path" in roles[:-1] or not one_class:
        raise UserError(
            f"{layout!r} is no layout.",
            fix="--layout takes a word a folder, such as domain/class: skip, split, domain, class; path at the end",
        )
    return layout


def _without_wrappers(paths: Iterable[str]) -> list[_Image]:
    where = {path: posixpath.dirname(path) for path in paths}
    folders = {folder: tuple(folder.split("/")) if folder else () for folder in set(where.values())}
    children: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for each in folders.values():
        children[each].add("")  # images lie right here
        for depth, name in enumerate(each):
            children[each[:depth]].add(name)
    silent = {
        (*folder, *names)
        for folder, names in children.items()
        if len(names) == 1 and folder and "" not in names and _says_nothing(folder[-1], *names)
    }
    kept = {each: tuple(i for i in range(len(each)) if each[: i + 1] not in silent) for each in folders.values()}
    names = {each: tuple(each[i] for i in kept[each]) for each in kept}
    return [_Image(path, each, kept[each], names[each]) for path in where for each in [folders[where[path]]]]


def _says_nothing(parent: str, name: str) -> bool:
    return name.casefold() in WRAPPERS or same_name(name) == same_name(parent)


def _without_unlabelled(images: list[_Image], folders: int) -> tuple[list[_Image], dict[str, str]]:
    """The images without those that lie right in a split's folder, with fewer than so many `folders` above them.

    Others must lie deeper beside it, and none in folders beside it that are no splits.
    """
    holders = {image.names for image in images}
    with_classes = {names[:-1] for names in holders if names and not split_of(names[-1])}
    with_grandchildren = {names[:depth] for names in holders for depth in range(len(names) - 1)}
    unlabelled = {
        names
        for names in holders
        if 0 < len(names) < folders and split_of(names[-1]) and names[:-1] in with_grandchildren - with_classes
    }
    left = {
        image.path: f"in {image.names[-1]}, a split without class folders"
        for image in images
        if image.names in unlabelled
    }
    return [image for image in images if image.path not in left], left


def _as_named(where: str, images: list[_Image], layout: str) -> list[_Image]:
    """The images as `layout` names their folders: without one around all of them that it does not name.

    Raises `UserError` if that folder may be the first one that it names.
    """
    roles = layout.split("/")
    if odd := next((image for image in images if len(image.kept) < len(roles)), None):
        raise UserError(
            f"{where}: {odd.path} has too few folders above it for --layout {layout}.",
            fix="Move it away, or choose another --layout.",
        )
    if min(len(image.kept) for image in images) == len(roles) or len({image.names[0] for image in images}) > 1:
        return images
    told = roles[0] == "skip" or (roles[0] == "split" and split_of(images[0].names[0]))
    if told or (roles[-1] == "path" and layout != "path"):
        return images
    inner = [image.without_first() for image in images]
    outer_classes, inner_classes = (len(_read(each, layout, {}).classes) for each in (images, inner))
    if layout == "path" or outer_classes < 2:
        return _as_named(where, inner, layout)
    if inner_classes < 2:
        return images
    raise _ambiguous(where, images, f"skip/{layout}", f"{layout}/skip")


def _only_layout(where: str, images: list[_Image]) -> str:
    """The only layout that fits. Raises `UserError` if there is none, or more than one."""
    if len({len(image.kept) for image in images}) > 1:
        raise _mixed(where, images)
    levels = [sorted(set(names)) for names in zip(*{image.names for image in images}, strict=True)]
    if not levels:
        raise UserError(f"{where} has no class folders: {images[0].path} lies in none.", fix=EXPECTED)
    split = next((number for number in range(len(levels)) if _are_splits(levels[number:])), None)
    others = [number for number in range(len(levels)) if number != split]
    while len(others) > 1 and (silent := _silent(levels, others, of_splits=split is not None)) is not None:
        others.remove(silent)
    if not others:
        folder = posixpath.dirname(images[0].path)
        raise UserError(
            f"{where} has no class folders: {images[0].path} lies in {folder}, which is a split.", fix=EXPECTED
        )
    *_, domain, last = (None, *others)
    layout = _layout(split, domain=domain, classes=last)
    domains = levels[domain] if domain is not None else []
    _check_beside(where, [levels[number] for number in others], layout)
    if len(others) > 2 or (len(domains) > 1 and not _are_domains(images, *others)):
        raise _ambiguous(where, images, layout, _layout(split, domain=None, classes=others[0]))
    if doubt := _doubt(levels[last], domains) or (split is not None and _odd_split(images, split, last)):
        raise UserError(
            f"{where} has the folders {_few(levels[last])}: {doubt}.",
            fix=f"--layout {layout} if they are classes; else point --source at folders that are.",
        )
    return layout


def _are_splits(levels: Sequence[Sequence[str]]) -> bool:
    """Whether the first of `levels` of folders is of splits. The last of all is not if it has several of one kind."""
    kinds = {split_of(name) for name in levels[0]}
    return None not in kinds and (len(levels) > 1 or len(levels[0]) == 1 or len(kinds) > 1)


def _check_beside(where: str, levels: Iterable[Sequence[str]], layout: str) -> None:
    """Raise `UserError` if other folders lie beside one that is called `images`, or like what lies beside images."""
    for names in levels:
        beside = [name for name in names if same_name(name) in BESIDE]
        if beside and len(names) > 1:
            raise UserError(
                f"{where} has the folders {_few(names)}: {beside[0]} is hardly a class or a domain.",
                fix=f"Keep the images alone, without masks and the like; or, if all are images, --layout {layout}",
            )


def _doubt(names: Sequence[str], domains: Sequence[str]) -> str | None:
    """Why folders may be no classes; None if nothing speaks against them."""
    if held_out := next(filter(is_held_out, names), None):
        return f"{held_out} is hardly a class beside others"
    if len(names) > 1 and _differ_in_a_number(names):
        return "they differ in a number alone, as parts of one set do"
    if len(domains) == 1 and _are_parts([name for name in names if not re.fullmatch(r"0|[1-9]\d*", name)], DOMAINS):
        return f"they may be parts of the one class {domains[0]}"
    return None


def _odd_split(images: Iterable[_Image], split: int, last: int) -> str | None:
    """Why the folders of a split may be no classes: no other split has them, and they are one or differ in a number."""
    classes: dict[str, set[str]] = defaultdict(set)
    for image in images:
        classes[image.names[split]].add(image.names[last])
    for name, own in classes.items():
        others = set().union(*(each for other, each in classes.items() if other != name))
        if others and not own & others and (len(own) == 1 or _differ_in_a_number(own)):
            return f"{min(own)} lies in {name} alone"
    return None


def _differ_in_a_number(names: Collection[str]) -> bool:
    """Whether names are those of parts: `images_001` and `images_002`, but not `c0` and `c1`."""
    stems = {re.sub(r"\d+", "0", name.casefold()) for name in names}
    *_, word = ["", *re.findall(r"[^\W\d_]+", min(stems))]
    return (len(stems) == 1 and len(word) > 2 and word not in COUNTED) or all(map(PART.fullmatch, names))


def _layout(split: int | None, *, domain: int | None, classes: int) -> str:
    """The layout in which the folders of these numbers are splits, domains and classes."""
    roles = {split: "split", domain: "domain", classes: "class"}
    last = max(number for number in roles if number is not None)
    return "/".join(roles.get(number, "skip") for number in range(last + 1))


def _silent(levels: Sequence[Sequence[str]], others: Sequence[int], *, of_splits: bool) -> int | None:
    """The first of the folders `others` that is the same for all images, and so says nothing.

    The upper one of two names the only domain, and the last one the only class, unless it is called `images` or so.
    """
    for number in others:
        (name, *more) = levels[number]
        names_domain = number == others[0] and len(others) == 2 and not of_splits
        if not more and (name.casefold() in WRAPPERS or not (names_domain or number == others[-1])):
            return number
    return None


def _are_domains(images: Iterable[_Image], first: int, second: int) -> bool:
    """Whether the folders `first` are domains and `second` their classes, and it cannot be otherwise.

    Each domain shares classes with another, at least half of what the smaller one has; there are more classes than
    domains, or all domains have usual names; and the classes have no names of parts.
    """
    classes: dict[str, set[str]] = defaultdict(set)
    for names in {image.names for image in images}:
        classes[names[first]].add(same_name(names[second]))
    if _are_parts({image.names[second] for image in images}, DOMAINS | VIEWS):
        return False
    overlap = all(
        any(2 * len(own & other) >= min(len(own), len(other)) for name, other in classes.items() if name != domain)
        for domain, own in classes.items()
    )
    many = len(classes) < len(set().union(*classes.values()))
    return overlap and (many or all(same_name(domain) in DOMAINS for domain in classes))


def _are_parts(names: Collection[str], views: Collection[str]) -> bool:
    """Whether the names of most folders are such as tell videos, objects or `views` of one class apart."""
    return 2 * sum(ID.fullmatch(name) is not None or same_name(name) in views for name in names) > len(names)


def _read(images: Iterable[_Image], layout: str, left: Mapping[str, str]) -> Reading:
    roles = layout.split("/")
    places = {}
    joined: dict[str, tuple[str, ...]] = {}
    for image in images:
        said = dict(zip(roles, image.names, strict=False))
        last = image.kept[len(roles) - 1]
        if roles[-1] == "path":
            last = image.kept[-1]
            names = image.names[len(roles) - 1 :]
            said["class"] = "_".join(names)
            if (other := joined.setdefault(said["class"], names)) != names:
                raise UserError(
                    f"{'/'.join(other)} and {'/'.join(names)} would both be the class {said['class']}.",
                    fix="Rename one of them.",
                )
        rest = (*image.folders[last + 1 :], posixpath.basename(image.path))
        places[image.path] = Place(_domain(said), said["class"], "/".join(rest))
    return Reading(layout, places, left)


def _domain(said: Mapping[str, str]) -> str:
    return one_form("-".join(said[role] for role in ("domain", "split") if role in said)) or ONLY_DOMAIN


def _of_split(where: str, reading: Reading, images: Iterable[_Image], layout: str, split: str) -> Reading:
    """The images of one split; the others are left over."""
    roles = layout.split("/")
    if "split" not in roles:
        raise UserError(f"{where} has no splits; it is read as {layout}/image.", fix="Leave out --split.")
    at = roles.index("split")
    names = {image.path: image.names[at] for image in images}
    asked = {path for path, name in names.items() if is_split(name, split)}
    if not asked:
        raise UserError(
            f"{where} has no split {split!r}; it has {_few(sorted(set(names.values())))}.",
            fix=f"--split {min(names.values())}",
        )
    others = {path: f"of the split {name}, which is not asked for" for path, name in names.items() if path not in asked}
    places = {path: reading.places[path] for path in asked}
    if "domain" in roles:
        places = {
            path: Place(place.domain.removesuffix(f"-{one_form(names[path])}"), place.class_folder, place.rest)
            for path, place in places.items()
        }
    return Reading(layout, places, {**reading.left, **others})


def _ambiguous(where: str, images: Sequence[_Image], *layouts: str) -> UserError:
    readings = [_read(images, layout, {}) for layout in layouts]
    return UserError(
        f"{where} can be read in two ways: as {readings[0]}, or as {readings[1]}.",
        fix=" or ".join(f"--layout {layout}" for layout in layouts) + ", or a word for each folder (shards/README.md).",
    )


def _mixed(where: str, images: Sequence[_Image]) -> UserError:
    """The error that images lie at different depths."""
    shallow = min(images, key=lambda image: (len(image.kept), any(map(split_of, image.names[-1:])), image.path))
    deep = max(images, key=lambda image: (len(image.kept), image.path))
    common = len(posixpath.commonprefix([image.names for image in images]))
    fix = "Move the odd ones away"
    if any(image.names[-1:] == shallow.names[-1:] for image in images if len(image.kept) > len(shallow.kept)):
        fix = "One may be a copy of the other: point --source at one of them, or move it away"
    elif len(shallow.kept) > common and not split_of(deep.names[common]):
        layouts = ["skip/" * common + role for role in ("class", "path")]
        ways = [f"--layout {each} (classes {_few(_read(images, each, {}).classes)})" for each in layouts]
        fix += f"; or choose {ways[0]} or {ways[1]}"
    return UserError(f"{where} mixes layouts: {shallow.path} lies beside {deep.path}.", fix=f"{fix}.")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", … {len(names):,} in all" if len(names) > 5 else "")
