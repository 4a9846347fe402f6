"""Dataset cards: what a known dataset must hold, and the names its copies go by (`cards/*.toml`, or a user's own)."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from fastclip.errors import UserError
from fastclip.files import is_copy
from fastclip.storage.folders import Location, open_folder

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True, kw_only=True)
class DomainCard:
    """One domain: its name, and the names of folders that it goes by in the copies around (compare `same_name`).

    The first folder is DomainBed's, where that is not the name: the order of its splits' seeds hangs on it.
    """

    name: str
    folders: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One set of images that bears the dataset's name. The first variant of a card is the published table's."""

    name: str
    images: Mapping[str, int]
    """Domain → number of images."""
    class_images: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Domain → number of images of each class, in label order, where that is known."""
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    """Domain → fingerprint (see `fastclip.data.shards.fingerprint`), where that is known."""


@dataclass(frozen=True, kw_only=True)
class Download:
    """One file or repository that `fastclip download` gets, or a page where a person must. All rows are needed."""

    url: str
    """`https://…` of a file, or `hf://datasets/OWNER/NAME[@REVISION]`; a commit as revision stays what it is."""
    file: str = ""
    """The file's name where the URL's last part is not it. Of a file fetched by hand: where to put it."""
    patterns: tuple[str, ...] = ()
    """Of a repository, which files to get: "data/*.parquet" (`*` stands for slashes too). Empty: all but dot files."""
    bytes: int | None = None
    """Size of the file, or of a repository's files together."""
    sha256: str | None = None
    """Of a file, in lower case. Hugging Face publishes those of its large files."""
    note: str = ""
    """A sentence for the user: what is in it, or, if by hand, what to do on that page."""
    by_hand: bool = False
    """No program can fetch it: a form, a shared drive."""

    def __post_init__(self) -> None:
        hub = self.url.startswith("hf://") and not self.by_hand
        form = r"hf://datasets/[\w.-]+/[\w.-]+(@[\w./-]+)?" if hub else r"https?://[^\s/@?#]+(/[!-~]*)?"
        if not re.fullmatch(form, self.url):
            kinds = "https://… (without a log-in, blanks as %20) nor hf://datasets/OWNER/NAME[@REVISION]"
            raise ValueError(f"the url of a download is neither {kinds}")
        if self.file and not re.fullmatch(r"[\w+,=@() -][\w.+,=@() -]*", self.file):
            raise ValueError(f"{self.file!r} is not a plain name of a file")
        if self.bytes is not None and (not isinstance(self.bytes, int) or self.bytes < 0):
            raise ValueError(f"bytes of a download must be a number, not {self.bytes!r}")
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError("sha256 of a download must be 64 hexadecimal digits in lower case")
        if hub and (self.file or self.sha256):
            raise ValueError("a repository has many files, so neither file nor sha256")
        if self.patterns and not hub:
            raise ValueError("patterns choose among the files of a repository, hf://…")


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """One dataset as published. `classes` are folder names in label order."""

    name: str
    title: str
    classes: tuple[str, ...]
    domains: tuple[DomainCard, ...]
    readable_names: Mapping[str, str] = field(default_factory=dict)
    """Class folder → readable name, where replacing underscores by blanks is not enough."""
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Class folder → other names of that folder."""
    split_lists: tuple[str, ...] = ()
    """Names of text files that list the images that count, a path a line; `{domain}` stands for a domain's name."""
    variants: tuple[Variant, ...] = ()
    downloads: tuple[Download, ...] = ()
    homepage: str = ""
    licence: str = ""
    citation: str = ""

    @property
    def domain_of(self) -> dict[str, str]:
        """`same_name` of every name that a domain goes by → the domain."""
        return {same_name(name): domain.name for domain in self.domains for name in (domain.name, *domain.folders)}

    def only_domain(self, splits: Sequence[str]) -> str | None:
        """The split of a source that is this dataset's one domain; None if that cannot be said.

        It is the split called like the domain, or else the only split. The latter does not hold where the domain is a
        split itself: VisDA-17's `train` is another set than its `validation`.
        """
        named = [split for split in splits if self.domain_of.get(same_name(split))]
        is_split = self.domains[0].name in ("train", "validation", "test")
        return named[0] if len(named) == 1 else splits[0] if len(splits) == 1 and not is_split else None

    @property
    def names(self) -> tuple[str, ...]:
        """Readable names in label order."""
        return tuple(self.readable_names.get(folder) or readable_name(folder) for folder in self.classes)


def readable_name(folder: str) -> str:
    """A class folder's name as words: `Alarm_Clock` → `Alarm Clock`."""
    return " ".join(folder.replace("_", " ").split())


def same_name(name: str) -> str:
    """The letters and digits of a name in lower case: `Real World`, `real_world` and `RealWorld` are one domain.

    Marks are parts of letters, and stay: in Hindi they are its vowels.
    """
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    return "".join(char for char in text if char.isalnum() or unicodedata.category(char) in ("Mn", "Mc"))


def find_card(name: str, shards: Location | None = None) -> DatasetCard | None:
    """The card of the dataset called `name`: a user's own NAME.toml in `shards`, else the catalogue's, else None."""
    folder = open_folder(shards) if shards is not None else None
    if folder is not None and folder.exists(f"{name}.toml"):
        return parse_card(name, folder.read(f"{name}.toml"), f"{folder}/{name}.toml")
    file = resources.files("fastclip.data") / "cards" / f"{name}.toml"
    return parse_card(name, file.read_bytes(), file.name) if file.is_file() else None


def list_cards(shards: Location | None = None) -> list[DatasetCard]:
    """Every card of the catalogue, and the user's own in `shards`."""
    embedded = {Path(file.name).stem for file in (resources.files("fastclip.data") / "cards").iterdir()}
    files = open_folder(shards).list("*.toml") if shards is not None else ()
    own = {Path(file).stem for file in files if not is_copy(file)}
    return [card for name in sorted(embedded | own) if (card := find_card(name, shards))]


def parse_card(name: str, data: bytes, where: str) -> DatasetCard:
    """The card in `data` (TOML). Raises `UserError` naming the field that is wrong in the file `where`."""
    try:
        card = _card(name, tomllib.loads(data.decode("utf-8-sig")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = f"it has no {error}" if isinstance(error, KeyError) else error
        raise UserError(
            f"{where} is not a dataset card: {problem}.", fix="shards/README.md shows a card; compare yours with it."
        ) from error
    return card


def _card(name: str, card: Mapping[str, Any]) -> DatasetCard:
    if unknown := card.keys() - DatasetCard.__dataclass_fields__.keys():
        raise ValueError(f"there is no field {min(unknown)!r}")
    classes = _texts(card["classes"], "classes")
    domains = tuple(
        DomainCard(name=_text(row["name"], "name"), folders=_texts(row.get("folders", []), "folders"))
        for row in card["domains"]
    )
    parsed = DatasetCard(
        name=name,
        title=_text(card.get("title", name), "title"),
        classes=classes,
        domains=domains,
        readable_names={folder: _text(text, folder) for folder, text in card.get("readable_names", {}).items()},
        aliases={folder: _texts(others, "aliases") for folder, others in card.get("aliases", {}).items()},
        split_lists=_texts(card.get("split_lists", []), "split_lists"),
        variants=tuple(_variant(row) for row in card.get("variants", [])),
        downloads=tuple(
            Download(**{**row, "patterns": _texts(row.get("patterns", []), "patterns")})
            for row in card.get("downloads", [])
        ),
        homepage=_text(card.get("homepage", ""), "homepage"),
        licence=_text(card.get("licence", ""), "licence"),
        citation=_text(card.get("citation", ""), "citation"),
    )
    _check(parsed)
    return parsed


def _variant(row: Mapping[str, Any]) -> Variant:
    of_classes = {
        domain: tuple(_count(number, domain) for number in numbers)
        for domain, numbers in row.get("class_images", {}).items()
    }
    return Variant(
        name=_text(row["name"], "name"),
        images={domain: _count(number, domain) for domain, number in row["images"].items()},
        class_images=of_classes,
        fingerprints={domain: _text(text, domain) for domain, text in row.get("fingerprints", {}).items()},
    )


def _text(value: Any, field_name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{field_name} must be a text, not {value!r}")
    return value


def _count(value: Any, field_name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"the images of {field_name} must be a number from 0 up, not {value!r}")
    return value


def _texts(value: Any, field_name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{field_name} must be a list of texts")
    return tuple(value)


def _check(card: DatasetCard) -> None:
    for what, names in (("class", card.classes), ("domain", [domain.name for domain in card.domains])):
        if not names:
            raise ValueError(f"it has no {what}")
        if "" in names:
            raise ValueError(f"a {what} has no name")
        if repeated := [name for name, number in Counter(names).items() if number > 1]:
            raise ValueError(f"the {what} {repeated[0]!r} stands twice")
    folders = [(same_name(folder), domain.name) for domain in card.domains for folder in (domain.name, *domain.folders)]
    owners = dict(folders)
    if clash := [folder for folder, domain in folders if owners[folder] != domain]:
        raise ValueError(f"two domains go by {clash[0]!r}")
    for what, mentioned in (("readable_names", card.readable_names), ("aliases", card.aliases)):
        if strange := mentioned.keys() - set(card.classes):
            raise ValueError(f"{what} mentions {min(strange)!r}, which is no class")
    spellings = [(folder, folder) for folder in card.classes]
    spellings += [(other, folder) for folder, others in card.aliases.items() for other in others]
    meant = dict(reversed(spellings))
    if ambiguous := [name for name, folder in spellings if meant[name] != folder]:
        raise ValueError(f"two classes go by {ambiguous[0]!r}")
    known = {domain.name for domain in card.domains}
    for variant in card.variants:
        mentioned_domains = variant.images.keys() | variant.class_images.keys() | variant.fingerprints.keys()
        if strange := mentioned_domains - known:
            raise ValueError(f"the variant {variant.name!r} mentions {min(strange)!r}, which is no domain")
        for domain, images in variant.class_images.items():
            if len(images) != len(card.classes) or sum(images) != variant.images.get(domain):
                raise ValueError(
                    f"class_images of {domain} do not add up to its images in the variant {variant.name!r}"
                )
