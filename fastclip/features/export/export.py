"""Exports the features of a dataset: files of one format, and `features.json`, which says what they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from fastclip.data.shards.manifest import read_rejected
from fastclip.data.shards.targets import Target
from fastclip.errors import IntegrityError, UserError
from fastclip.features.export.clip_retrieval import write_clip_retrieval
from fastclip.features.export.npy import write_npy
from fastclip.features.export.parquet import write_parquet
from fastclip.features.export.rows import Rows, Writer, file_name, read_rows
from fastclip.features.export.transferlearning import write_transferlearning
from fastclip.features.read import Features
from fastclip.files import digest_file, read_file, write_folder
from fastclip.store.parts import part_name

FACTS = "features.json"
FACTS_FORMAT = "fastclip.features/1"

WRITERS: Mapping[str, Writer] = {
    "parquet": write_parquet,
    "npy": write_npy,
    "clip-retrieval": write_clip_retrieval,
    "transferlearning": write_transferlearning,
}
"""The formats by name."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The form of an export."""

    format: str = "parquet"
    raw: bool = False
    """Write what left the tower, to the rounding of what is stored, and not unit vectors."""
    digits: int | None = None
    """Digits after the point, in files of text. By default as many as fp32 needs."""

    def __post_init__(self) -> None:
        if self.format not in WRITERS:
            raise UserError(f"--format does not know {self.format!r}.", fix=f"--format {' | '.join(WRITERS)}")
        if self.raw and self.format == "clip-retrieval":
            raise UserError("clip-retrieval's files hold unit vectors.", fix="Leave out --raw, or --format npy --raw.")
        if self.digits is not None and (self.format != "transferlearning" or not 1 <= self.digits <= 17):
            raise UserError(
                f"--digits {self.digits} is not possible with --format {self.format}.",
                fix="--format transferlearning --digits 4 (1 to 17)",
            )

    @property
    def writer(self) -> Writer:
        """The writer of this format."""
        if self.digits is not None:
            return partial(write_transferlearning, digits=self.digits)
        return WRITERS[self.format]


@dataclass(frozen=True)
class PartRows:
    """How many rows an export has of one part."""

    shard: str
    part: str
    rows: int


@dataclass(frozen=True)
class WithoutRow:
    """An image that cannot be read. One that sharding rejected has no `key`, and its `path` is below the source."""

    domain: str
    key: str | None
    path: str
    reason: str


@dataclass(frozen=True)
class Exported:
    """Where every image of an export is: in a row of a part, or among those that are unreadable."""

    parts: tuple[PartRows, ...]
    unreadable: tuple[WithoutRow, ...]

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return sum(each.rows for each in self.parts)


def export_folder(root: Path, features: Features, options: ExportOptions) -> Path:
    """The folder of an export below `root`: DATASET/BACKBONE/FORMAT."""
    return root / features.target.name / file_name(features.recipe.backbone) / options.format


def check_export_is_free(folder: Path, *, overwrite: bool) -> None:
    """Raise `UserError` if `folder` holds an export that may not be replaced, or anything that is no part of one."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if not found and not folder.is_file():
        return
    try:
        facts = json.loads(read_file(folder / FACTS))
        others = found - {FACTS, *(each["name"] for each in facts["files"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        others = found
    if others or folder.is_file():
        raise UserError(
            f"{folder / min(others, default='')} was not written by fastclip features, and would be lost.",
            fix="Move it away, or choose another --output DIR.",
        )
    if not overwrite:
        raise UserError(f"{folder} is exported already.", fix="Add --overwrite, or choose another --output DIR.")


def export(
    features: Features,
    folder: Path,
    options: ExportOptions,
    on_images: Callable[[int], object] = lambda images: None,
) -> Exported:
    """Write the features to `folder`, which is there whole afterwards or not at all, and replaces one that is there.

    A shard is read, written and forgotten: memory does not grow with the dataset. `on_images` is told of each shard's
    images. Raises `IntegrityError` at a part that is missing or damaged.
    """
    parts: list[PartRows] = []
    unreadable: list[WithoutRow] = []

    def exported() -> Exported:
        return Exported(tuple(parts), (*unreadable, *_rejected(features)))

    def rows() -> Iterator[Rows]:
        for each in read_rows(features, options.raw):
            parts.append(PartRows(each.shard.name, part_name(each.shard), len(each.records)))
            unreadable.extend(
                WithoutRow(each.shard.domain, record.key, record.path, reason) for record, reason in each.unreadable
            )
            if each.records:
                yield each
            on_images(each.shard.images)

    def write(temporary: Path) -> None:
        options.writer(temporary, features, rows())
        (temporary / FACTS).write_bytes(_facts(features, options, exported(), temporary))

    write_folder(folder, write)
    return exported()


def _rejected(features: Features) -> Iterator[WithoutRow]:
    """Images of the wanted domains that are in no shard, because they could not be read when it was written."""
    target = features.target
    for row in read_rejected(target.folder, target.manifest):
        if row.domain in target.domains:
            yield WithoutRow(row.domain, None, row.path, row.reason)


def _images(target: Target, exported: Exported) -> int:
    """The images of a target. Raises `IntegrityError` unless each is accounted for once."""
    domains = (each for each in target.manifest.domains if each.name in target.domains)
    images = sum(each.images + each.unreadable for each in domains)
    if images != exported.rows + len(exported.unreadable):
        raise IntegrityError(
            f"{target.name}: {images} images, but {exported.rows} rows and {len(exported.unreadable)} unreadable ones.",
            fix="Report this: an image is exported twice or not at all.",
        )
    return images


def _facts(features: Features, options: ExportOptions, exported: Exported, folder: Path) -> bytes:
    """`features.json`: what the files of `folder` hold, from where, and what they leave out."""
    target, recipe = features.target, features.recipe
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    document = {
        "format": FACTS_FORMAT,
        "written_as": options.format,
        "dataset": target.name,
        "domains": target.domains,
        "manifest_sha256": target.manifest_sha256,
        "classes": target.manifest.classes,
        "names": target.manifest.names,
        "backbone": recipe.backbone,
        "weights": recipe.weights,
        "recipe": {"id": recipe.id, "document": recipe.to_document()},
        "dim": features.dim,
        "normalised": not options.raw,
        "rounding": 2.0**-24 if recipe.precision == "fp32" and options.format != "clip-retrieval" else 2.0**-11,
        "digits": options.digits,
        "images": _images(target, exported),
        "rows": exported.rows,
        "unreadable": [asdict(each) for each in exported.unreadable],
        "parts": [asdict(each) for each in exported.parts],
        "files": [
            {"name": name, "bytes": (folder / name).stat().st_size, "sha256": digest_file(folder / name)}
            for name in names
        ],
    }
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"
