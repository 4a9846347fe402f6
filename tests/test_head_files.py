"""Head files: what was saved comes back bit for bit, and nothing else passes for a head."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastclip.errors import FastclipError, IntegrityError, UserError
from fastclip.files import digest
from fastclip.heads.head_files import (
    FORMAT,
    HeadFacts,
    check_head,
    describe_numpy,
    load_head,
    save_head,
    seal_head,
    unseal_head,
)
from fastclip.heads.labelled import Labelled
from fastclip.heads.linear import LinearHead
from fastclip.heads.neighbours import Neighbours
from fastclip.heads.scores import Head, exact
from fastclip.heads.tip import Tip
from fastclip.sealed import seal, unseal
from fastclip.store.recipes import Preprocessing, Recipe
from fastclip.store.training import TrainingSet

RECIPE = Recipe(
    backbone="ViT-B/32",
    architecture="ViT-B-32-quickgelu",
    weights="a" * 64,
    preprocessing=Preprocessing(resize="bicubic", side=224, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2)),
    decoder="torchvision 0.29.2, pillow 12.3.0",
    precision="bf16",
    batch_size=32,
    engine="eager",
    libraries="torch 2.13",
    machine="cpu AVX512",
    switches=(),
    numerics=1,
)
FACTS = HeadFacts(
    method="logistic",
    settings={"strength": 10 ** (1 / 8)},
    recipe=RECIPE,
    prompts="photo",
    templates=("a photo of a {}.",),
    classes=("dog", "Alarm_Clock", "größe"),
    training=(TrainingSet(dataset="pacs", domain="photo", fingerprint="f", images=7),),
    images=6,
    seed=0,
    shots=2,
    split=None,
    duplicates=1,
    made_by=describe_numpy(),
    figures={"gradient": 1e-9, "iterations": 12.0},
)


def drawn(seed: int, *shape: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=shape)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


IMAGES = Labelled(drawn(3, 9, 8).astype(np.float16), np.array([0, 2, 0, 2, 2, 2, 0, 0, 2]), 3)
HEADS: dict[str, Head] = {
    "zero-shot": LinearHead(drawn(0, 3, 8).astype(np.float32)),
    "trained": LinearHead(drawn(1, 3, 8) * 12.5, np.array([0.5, -3.0, 1e-7]), np.array([True, False, True])),
    "neighbours": Neighbours(k=4).fit(IMAGES).head,
    "tip": Tip(alpha=0.7, beta=2.5).fit(IMAGES, prototypes=drawn(4, 3, 8).astype(np.float32)).head,
}


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_comes_back_with_its_facts_and_scores_the_same_bits(kind: str, tmp_path: Path):
    path = tmp_path / "new" / "head.safetensors"
    saved = save_head(path, HEADS[kind], FACTS)
    head, facts = load_head(path)
    assert facts == FACTS and saved == digest(path.read_bytes()) and type(head) is type(HEADS[kind])
    images = exact(drawn(2, 40, 8).astype(np.float16))
    assert head.classes == 3 and head(images).tobytes() == HEADS[kind](images).tobytes()
    assert seal_head(head, facts) == path.read_bytes(), "equal heads have equal bytes"


def test_every_flipped_byte_is_noticed():
    data = seal_head(HEADS["trained"], FACTS)
    for place in range(len(data)):
        with pytest.raises(FastclipError):
            unseal_head(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :], "head")
    for cut in (0, 7, 100, len(data) - 1):
        with pytest.raises(FastclipError):
            unseal_head(data[:cut], "head")


def changed(
    tensors: dict[str, np.ndarray] | None = None, *, of: str = "trained", without: str = "", **facts: Any
) -> bytes:
    """A file with a digest that is right and contents that are not."""
    old_tensors, old_facts = unseal(seal_head(HEADS[of], FACTS), "head")
    new_tensors, new_facts = {**old_tensors, **(tensors or {})}, {**old_facts, **facts}
    new_tensors.pop(without, None)
    new_facts.pop(without, None)
    return seal(new_tensors, new_facts)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", UserError, "no head"),
        (b"PK\x03\x04 anything", UserError, "no head"),
        (seal({"embeddings": np.zeros(3)}, {"part": "p"}), UserError, "not fastclip.head/1"),
        (changed(format="fastclip.head/2"), UserError, "fastclip.head/2, not fastclip.head/1"),
        (changed(kind="forest"), IntegrityError, "forest is no kind"),
        (changed(without="weights"), IntegrityError, "it has no weights"),
        (changed({"keys": np.zeros((3, 8))}), IntegrityError, "keys"),
        (changed({"bias": np.zeros(4)}), IntegrityError, "bias are float64 of shape"),
        (changed({"weights": np.zeros((4, 8))}), IntegrityError, "weights are float64 of shape"),
        (changed({"weights": np.zeros(3)}), IntegrityError, "weights are float64 of shape"),
        (changed({"known": np.zeros(3)}), IntegrityError, "known are float64"),
        (changed({"weights": np.full((3, 8), np.nan)}), IntegrityError, "not finite"),
        (changed({"labels": np.full(9, 3)}, of="neighbours"), IntegrityError, "outside their range"),
        (changed({"labels": np.full(9, -1)}, of="neighbours"), IntegrityError, "outside their range"),
        (changed(of="neighbours", numbers={"k": 10, "temperature": 0.07}), IntegrityError, "outside their range"),
        (changed(of="neighbours", numbers={"k": 4}), IntegrityError, "it has no temperature"),
        (changed({"labels": np.zeros(8, np.int64)}, of="neighbours"), IntegrityError, "vectors are|labels are"),
        (changed({"labels": np.arange(9)}, of="tip"), IntegrityError, "no classes"),
        (changed({"labels": np.repeat([2, 0], [4, 5])}, of="tip"), IntegrityError, "not in order"),
        (changed({"keys": np.zeros((9, 7))}, of="tip"), IntegrityError, "keys are|prototypes are"),
        (changed(classes=["dog"]), IntegrityError, "shape"),
        (changed(without="classes"), IntegrityError, "classes"),
        (changed(recipe={}), IntegrityError, "no recipe"),
        (changed(training=[1]), IntegrityError, "no whole head"),
    ],
)
def test_other_contents_are_no_head(data: bytes, error: type[FastclipError], message: str, tmp_path: Path):
    (tmp_path / "head").write_bytes(data)
    with pytest.raises(error, match=message) as raised:
        load_head(tmp_path / "head")
    assert "fit the head again" in raised.value.fix.lower() and "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_the_users_mistake(tmp_path: Path):
    with pytest.raises(UserError, match="No such file"):
        load_head(tmp_path / "head")
    with pytest.raises(UserError, match="directory"):
        load_head(tmp_path)


@pytest.mark.parametrize(
    ("recipe", "classes", "message", "cure"),
    [
        ({"backbone": "RN50", "weights": "b" * 64}, None, "for ViT-B/32, not for RN50", "-b ViT-B/32"),
        ({"weights": "b" * 64}, None, "weights aaaaaaaaaaaa; these are bbbbbbbbbbbb", "--weights ViT-B/32=FILE"),
        ({"precision": "fp32"}, None, "precision differs: bf16 there, fp32 here", f"--recipe {RECIPE.id[:12]}"),
        ({}, ("dog", "TV", "größe"), "class 1 is Alarm_Clock in the head and TV in the dataset", "fit the head again"),
        ({}, ("dog", "Alarm_Clock"), "only the head has größe", "fit the head again"),
        ({}, ("dog", "Alarm_Clock", "größe", "z"), "only the dataset has z", "fit the head again"),
    ],
)
def test_a_head_for_something_else_is_refused_with_a_cure(
    recipe: dict[str, str], classes: tuple[str, ...] | None, message: str, cure: str
):
    check_head(FACTS, RECIPE, list(FACTS.classes))
    with pytest.raises(UserError, match=message) as raised:
        check_head(FACTS, dataclasses.replace(RECIPE, **recipe), classes or FACTS.classes)
    assert cure in raised.value.fix


def test_the_format_is_named_in_the_file():
    assert FORMAT.encode() in seal_head(HEADS["trained"], FACTS)
