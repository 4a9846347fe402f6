"""Copies recipes from one store to another, every part proved on the way."""

from __future__ import annotations

from collections.abc import Callable

from fastclip.errors import IntegrityError
from fastclip.files import read_file
from fastclip.store.parts import unseal_part
from fastclip.store.recipes import Recipe
from fastclip.store.store import Store


def copy_recipe(
    source: Store, target: Store, recipe: Recipe, on_part: Callable[[], object] = lambda: None
) -> tuple[int, list[str], list[str]]:
    """Copy every part of `recipe` that `target` does not hold.

    Returns how many parts were copied, and a sentence for each that was left out: those that are damaged in `source`,
    and those that cannot be read there. Raises `IntegrityError` if `target` holds other bytes under a part's name.
    """
    copied, damaged, unread = 0, [], []
    for name in sorted(source.parts(recipe.id)):
        path = source.path(recipe.id, name)
        try:
            data = read_file(path)
            unseal_part(data, recipe.id, name, str(path))
        except FileNotFoundError:
            continue  # removed meanwhile
        except IntegrityError as error:
            damaged.append(str(error))
            continue
        except OSError as error:
            unread.append(f"{path} cannot be read: {error.strerror or error}.")
            continue
        finally:
            on_part()
        there = target.read_sealed(recipe.id, name)  # a damaged one is moved aside
        target.publish_sealed(recipe, name, data)
        copied += there is None
    return copied, damaged, unread
