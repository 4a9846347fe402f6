"""The store: recipes as folders, and in each the parts that were embedded under it.

    STORE/RECIPE/recipe.json          everything that can move a bit, named by its digest
    STORE/RECIPE/PART.safetensors     the embeddings of one shard, named by its images
    STORE/prototypes/…                see `fastclip.text.prototypes`
    STORE/texts/…                     see `fastclip.text.vectors`

A part that is there is done: no database, no log, no lock. It is published whole or not at all, and proves itself when
it is read. Files beside ours, such as the copies of synchronisers, are nobody's parts.
"""

from __future__ import annotations

import errno
import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastclip.errors import FastclipError, IncompleteError, IntegrityError, UserError, in_bytes
from fastclip.faults import patiently
from fastclip.files import canonical_json, is_temporary, name_new, read_file, temporary_path, write_new, write_over
from fastclip.sealed import read_facts
from fastclip.store.parts import Part, seal_part, unseal_part
from fastclip.store.recipes import Recipe, parse_recipe

RECIPE_FILE = "recipe.json"
SUFFIX = ".safetensors"
DAY_S = 86_400.0

_DAMAGES = (errno.EISDIR, errno.ELOOP)
"""Errors of reading after which a part can only be made again: there is no file at all."""

_DIGEST = "[0-9a-f]{64}"


class Store:
    """A folder of embeddings that any number of processes on any number of machines may share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, set[str]] = {}

    def check_layout(self) -> None:
        """Raise `UserError` for a store that a version of fastclip before recipes wrote."""
        if (self.folder / "parts").is_dir():
            raise UserError(
                f"{self.folder} was written by an older version of fastclip, whose embeddings this one cannot read.",
                fix=f"Remove {self.folder}/parts, or choose another --store; the images are embedded again.",
            )

    def recipes(self) -> list[Recipe]:
        """The recipes of this store, most preferred first.

        A recipe.json that is torn or belongs elsewhere is made up for by what any part says. A folder without one is
        left out: somebody is removing it.
        """
        found = [self._read_recipe(name) for name in self.recipe_folders()]
        return sorted((recipe for recipe in found if recipe), key=lambda recipe: recipe.preference)

    def recipe_folders(self) -> list[str]:
        """The names of all folders that are called as a recipe is, also of those without a recipe."""
        return sorted(entry.name for entry in _entries(self.folder) if re.fullmatch(_DIGEST, entry.name))

    def parts(self, recipe_id: str) -> set[str]:
        """The names of the parts that are there now; `has` asks again for one that is not among them."""
        entries = _entries(self.folder / recipe_id)
        self._known[recipe_id] = {entry.name[: -len(SUFFIX)] for entry in entries if _is_part(entry.name)}
        return self._known[recipe_id]

    def listed(self, recipe_id: str) -> set[str]:
        """The parts as `parts` found them last, with those that `has` met since; asks nothing again, for planning."""
        known = self._known.get(recipe_id)
        return self.parts(recipe_id) if known is None else known

    def has(self, recipe_id: str, name: str) -> bool:
        """Whether a part is published. The first call lists the folder: asking for each part takes longer.

        False where that cannot be known: a part that is made twice costs time and nothing else.
        """
        known = self.listed(recipe_id)
        # A string and no `Path`: a run with a million units asks several times for each.
        if name not in known and os.path.lexists(f"{self.folder}/{recipe_id}/{name}{SUFFIX}"):
            known.add(name)
        return name in known

    def size(self, recipe_id: str) -> int:
        """The bytes of a recipe's parts together."""
        total = 0
        for entry in _entries(self.folder / recipe_id):
            with suppress(FileNotFoundError):
                total += entry.stat(follow_symlinks=False).st_size if _is_part(entry.name) else 0
        return total

    def path(self, recipe_id: str, name: str) -> Path:
        """Where a part lies, or would."""
        return self.folder / recipe_id / f"{name}{SUFFIX}"

    def damaged_path(self, recipe_id: str, name: str) -> Path:
        """Where a damaged part is kept for whoever wants to know why."""
        return self.folder / "damaged" / f"{recipe_id}-{name}{SUFFIX}"

    def facts(self, recipe_id: str, name: str) -> dict[str, Any] | None:
        """The facts in a part's header, not verified: `recipe`, `part` and `unreadable`; None if it is damaged."""
        try:
            return read_facts(self.path(recipe_id, name))
        except (OSError, IntegrityError):
            return None

    def publish(self, recipe: Recipe, name: str, part: Part) -> None:
        """Publish a part. Another process may have: equal bytes are fine, others raise `IntegrityError`."""
        self.publish_sealed(recipe, name, seal_part(part, recipe, name))

    def publish_sealed(self, recipe: Recipe, name: str, data: bytes) -> None:
        """Publish a part's file, and the recipe before it if it is not there or no longer."""
        self.publish_recipe(recipe)
        try:
            write_new(self.path(recipe.id, name), data)
        except IncompleteError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            write_new(self.path(recipe.id, name), data)  # somebody removed the recipe's folder in this moment
        self.publish_recipe(recipe)  # or since

    def read(self, recipe_id: str, name: str) -> Part | None:
        """A part, verified; None if there is none or if it was damaged, and is now moved aside."""
        data_and_part = self.read_sealed(recipe_id, name)
        return data_and_part[1] if data_and_part else None

    def read_sealed(self, recipe_id: str, name: str) -> tuple[bytes, Part] | None:
        """A part and the bytes of its file, as `read`."""
        path = self.path(recipe_id, name)
        known = self._known.get(recipe_id, set())
        # A listed part is there, or was: on a network file system its name may come later, or be out of date.
        lost = (errno.ESTALE, errno.ENOENT) if name in known else (errno.ESTALE,)
        try:
            data = read_file(path, lost)
            return data, unseal_part(data, recipe_id, name, str(path))
        except FileNotFoundError:
            if path.is_symlink():
                self._move_aside(recipe_id, name)
        except IntegrityError:
            self._move_aside(recipe_id, name)
        except OSError as error:
            if error.errno not in _DAMAGES:
                raise _cannot_read(path, error) from error
            self._move_aside(recipe_id, name)
        known.discard(name)
        return None

    def remove(self, recipe_id: str) -> int:
        """Remove a recipe and its parts, recipe.json first: from then on nobody reads it. Returns how many parts.

        Files that are not ours stay, and the folder with them. A process that is embedding under it publishes the
        recipe anew; the parts it adds meanwhile stay.
        """
        folder = self.folder / recipe_id
        removed = 0
        try:
            (folder / RECIPE_FILE).unlink(missing_ok=True)
            for entry in _entries(folder):
                if _is_part(entry.name) or (is_temporary(entry.name) and not _is_new(entry)):
                    Path(entry).unlink(missing_ok=True)
                    removed += _is_part(entry.name)
            with suppress(FileNotFoundError):
                folder.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise IncompleteError(
                    f"Cannot remove {folder}: {error.strerror or error}.", fix="Check permissions; then remove again."
                ) from error
        self._known.pop(recipe_id, None)
        return removed

    def prepare(self, parts: int, size: int, *, tidy: bool) -> None:
        """Prove that `parts` of `size` bytes together can be published, by publishing a file.

        For before any model is loaded. Raises `IncompleteError` with the path and what it needs. `tidy` also removes
        what processes left that died a day ago or earlier.
        """
        there = next(each for each in (self.folder, *self.folder.absolute().parents) if each.is_dir())
        room = os.statvfs(there)
        # Files take whole blocks.
        needed, free = size + parts * 8192, room.f_bavail * room.f_frsize
        if room.f_blocks and free < needed:
            raise IncompleteError(
                f"{self.folder} has {in_bytes(free)} free, the embeddings need {in_bytes(needed)}.",
                fix="Free space there or choose another --store, then run the same command again.",
            )
        files = parts + 20
        if room.f_files and room.f_favail < files:
            raise IncompleteError(
                f"{self.folder} has room for {room.f_favail:,} more files, the embeddings need {files:,}.",
                fix="Remove files there or choose another --store, then run the same command again.",
            )
        probe = temporary_path(self.folder / "probe")  # whoever dies here leaves nothing that stays
        try:
            write_new(probe, b"fastclip was here\n")
            now = probe.stat().st_mtime  # the file server's clock
        except OSError as error:
            raise _cannot_read(probe, error) from error
        finally:
            with suppress(OSError):
                probe.unlink()
        if tidy:
            self._tidy(now - DAY_S)

    def publish_recipe(self, recipe: Recipe) -> None:
        """Write recipe.json, unless the right one is there."""
        path = self.folder / recipe.id / RECIPE_FILE
        data = canonical_json(recipe.to_document()) + b"\n"
        if self._recipe_in_file(recipe.id) is None:
            try:
                write_new(path, data)
            except IntegrityError:  # a torn one is there
                write_over(path, data)

    def _read_recipe(self, recipe_id: str) -> Recipe | None:
        path = self.folder / recipe_id / RECIPE_FILE
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _cannot_read(path, error) from error
        return self._recipe_in_file(recipe_id) or self._recipe_in_parts(recipe_id)

    def _recipe_in_file(self, recipe_id: str) -> Recipe | None:
        path = self.folder / recipe_id / RECIPE_FILE
        try:
            data = read_file(path)
        except OSError as error:
            if error.errno not in (*_DAMAGES, errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
                raise _cannot_read(path, error) from error  # a fault of the machine hides no recipe
            return None
        with suppress(ValueError, RecursionError):
            recipe = parse_recipe(json.loads(data))
            return recipe if recipe.id == recipe_id else None
        return None

    def _recipe_in_parts(self, recipe_id: str) -> Recipe | None:
        for name in sorted(self.parts(recipe_id)):
            with suppress(ValueError, KeyError, TypeError):
                recipe = parse_recipe((self.facts(recipe_id, name) or {})["recipe"])
                if recipe.id == recipe_id:
                    return recipe
        return None

    def _tidy(self, before: float) -> None:
        """Remove temporary files that nobody has written to since `before`."""
        folders = _subfolders(self.folder)
        folders += [folder for above in folders for folder in _subfolders(above)]
        for folder in [self.folder, *folders]:
            for entry in _entries(folder):
                with suppress(OSError):
                    if is_temporary(entry.name) and entry.stat(follow_symlinks=False).st_mtime < before:
                        Path(entry).unlink()

    def _move_aside(self, recipe_id: str, name: str) -> None:
        """Make room for a part in the place of a damaged one."""
        path, aside = self.path(recipe_id, name), self.damaged_path(recipe_id, name)
        try:
            aside.parent.mkdir(exist_ok=True)
            path.replace(aside)
        except FileNotFoundError:
            return  # another process has
        except OSError as error:
            raise IntegrityError(
                f"{path} is damaged and cannot be moved aside: {error.strerror}.",
                fix="Delete it where the store can be written to, or choose another --store.",
            ) from error
        # Another process may have moved it aside before, and made it again: then this is the new one.
        with suppress(FastclipError, OSError):
            unseal_part(read_file(aside), recipe_id, name, str(aside))
            name_new(aside, path)
            aside.unlink(missing_ok=True)


def _is_part(name: str) -> bool:
    return re.fullmatch(_DIGEST + re.escape(SUFFIX), name) is not None


def _is_new(entry: os.DirEntry[str]) -> bool:
    """Whether a file was written to within the last minute."""
    with suppress(FileNotFoundError):
        return time.time() - entry.stat(follow_symlinks=False).st_mtime < 60
    return False


def _subfolders(folder: Path) -> list[Path]:
    return [Path(entry) for entry in _entries(folder) if entry.is_dir(follow_symlinks=False)]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Everything in a folder, read at once so that it can be asked again; nothing if there is no folder."""

    def entries() -> list[os.DirEntry[str]]:
        with os.scandir(folder) as found:
            return list(found)

    # A network file system may say once of a folder that it is not there, although it is.
    lost = (errno.ESTALE, errno.ENOENT) if os.path.lexists(folder) else (errno.ESTALE,)
    try:
        return patiently(entries, lost)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _cannot_read(folder, error) from error


def _cannot_read(path: Path, error: OSError) -> IncompleteError:
    return IncompleteError(
        f"Cannot read {path}: {error.strerror or error}.",
        fix="See that it can be read, then run the same command again.",
    )
