"""Names of splits: the training, validation and test part of one set, whatever they are called."""

from __future__ import annotations

import re

WORDS = {
    **dict.fromkeys(("train", "training", "trn", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "crossval", "dev", "devel", "valset"), "validation"),
    **dict.fromkeys(("test", "testing", "tst", "testset", "eval", "evaluation", "holdout"), "test"),
    **dict.fromkeys(("trainval", "unlabeled", "unlabelled", "query", "gallery"), ""),
    **dict.fromkeys(("pred", "prediction", "predictions", "predict"), "prediction"),
}
"""Word → the split that it means; an empty text for one that means itself."""


def split_of(name: str) -> str | None:
    """The split that a name speaks of, such as `train` of `seg_train`; None for a name without such a word.

    >>> split_of("TestImages"), split_of("val2017"), split_of("trainer")
    ('test', 'validation', None)
    """
    word = next((word for word in _words(name) if word in WORDS), None)
    return (WORDS[word] or word) if word else None


def is_held_out(name: str) -> bool:
    """Whether a name is one of a validation or test part and hardly of a class, unlike `train` and `test tube`.

    >>> is_held_out("val"), is_held_out("test_images"), is_held_out("train"), is_held_out("test tube")
    (True, True, False, False)
    """
    *_, last = ["", *(word for word in _words(name) if word not in ("images", "image", "imgs", "img", "data", "set"))]
    return WORDS.get(last) in ("validation", "test", "prediction")


def _words(name: str) -> list[str]:
    return [word.casefold() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]


def is_split(name: str, wanted: str) -> bool:
    """Whether a split called `name` is the `wanted` one: `val` is `validation`."""
    return name.casefold() == wanted.casefold() or (split_of(name) or name) == (split_of(wanted) or wanted)
