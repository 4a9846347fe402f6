"""Features: what is read back is what the towers made, in manifest order, with its norm; scores are exact."""

from __future__ import annotations

import dataclasses
import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from helpers import Sharded, image_bytes, shard, write
from PIL import Image

from fastclip.data.shards.manifest import read_manifest
from fastclip.errors import IncompleteError, IntegrityError
from fastclip.evaluate.embedding import embed
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.setup import resolve
from fastclip.features.read import Features
from fastclip.heads.linear import LinearHead
from fastclip.heads.scores import classify, exact


def features_of(sharded: Sharded, store: Path, **options: object) -> Features:
    setup = resolve(EvalOptions(backbones=("tiny",), shards=sharded.shards, store=store, here=True, **options))
    embed(setup)
    (target,) = setup.targets
    return Features(target, setup.recipes[target.name, "tiny"], setup.store)


@torch.inference_mode()
def raw_outputs(paths: list[Path]) -> np.ndarray:
    """open_clip's own features of image files, as they leave the tower."""
    import open_clip

    open_clip.add_model_config(oracle.TINY / "fastclip-tiny.json")
    model, _, preprocess = open_clip.create_model_and_transforms(
        "fastclip-tiny", pretrained=str(oracle.TINY / "tiny.safetensors")
    )
    images = torch.stack([preprocess(Image.open(path).convert("RGB")) for path in paths])
    return model.eval().encode_image(images).numpy()


@pytest.mark.parametrize(("precision", "rounding"), [("fp32", 1e-5), ("fp16", 2**-11), ("bf16", 2**-11)])
def test_norms_give_the_towers_own_features_back(precision: str, rounding: float, shapes: Sharded, tmp_path: Path):
    features = features_of(shapes, tmp_path, precision=precision, targets=("shapes/flat",))
    (first, *_) = features
    paths = [shapes.source / "flat" / record.path for record in first.records()]
    expected = raw_outputs(paths)
    norms = np.linalg.norm(expected.astype(np.float64), axis=1)
    off_by_precision = {"fp32": 1e-3, "fp16": 2e-3, "bf16": 2e-2}[precision]
    assert first.norms.dtype == np.float32 and np.abs(first.norms / norms - 1).max() < off_by_precision
    assert np.abs(np.linalg.norm(first.vectors.astype(np.float64), axis=1) - 1).max() < 1e-3
    # To the rounding of what is stored: the vector's component, times the norm.
    stored = first.vectors.astype(np.float64) * first.norms[:, None]
    assert np.abs(first.raw() - stored).max() <= rounding * norms.max()
    if precision == "fp32":
        assert np.abs(first.raw() - expected).max() < 2e-3 * norms.max()


def test_features_come_in_manifest_order_with_labels_keys_and_unreadable_rows(tmp_path: Path):
    files = {f"all/{name}/{n}.jpg": image_bytes("JPEG", (40 + n, 50)) for name in ("a", "b") for n in range(6)}
    files["all/a/4.jpg"] = image_bytes("JPEG", (640, 640))[:-2000]
    sharded = shard(
        write(tmp_path / "source", files),
        tmp_path / "shards",
        "set",
        shard_images=5,
        verify=False,
        layout="domain/class",
    )
    features = features_of(sharded, tmp_path / "store")
    manifest = read_manifest(sharded.folder)
    assert [each.shard.name for each in features] == [each.name for each in manifest.shards]
    for _ in range(2):  # read as often as needed
        rows = [
            (record.path, int(label))
            for each in features
            for record, label in zip(each.records(), each.labels, strict=True)
        ]
        assert rows == [
            (f"{name}/{n}.jpg", "ab".index(name)) for name in "ab" for n in range(6) if (name, n) != ("a", 4)
        ]
    unreadable = [(each.shard.name, row) for each in features for row, reason in each.unreadable]
    assert unreadable == [("all/0.tar", 4)]
    for each in features:
        assert len(each.vectors) == len(each.norms) == len(each.labels) == len(each.rows)
        assert (each.norms > 0).all() and np.isfinite(each.vectors).all()
    assert features.dim == 64


def test_a_part_with_a_norm_that_is_no_positive_number_is_damaged(shapes: Sharded, tmp_path: Path):
    features = features_of(shapes, tmp_path, targets=("shapes/flat",))
    name = min(features.store.parts(features.recipe.id))
    part = features.store.read(features.recipe.id, name)
    assert part is not None
    part.norms[3] = np.nan
    features.store.path(features.recipe.id, name).unlink()
    features.store.publish(features.recipe, name, part)
    with pytest.raises(IncompleteError, match="missing or were damaged"):
        list(features)
    assert features.store.damaged_path(features.recipe.id, name).exists()


def unit(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    vectors = rng.normal(size=(rows, dim))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("dim", [64, 1024])
def test_no_order_of_summation_no_block_and_no_blas_moves_a_bit_of_a_score(dim: int):
    rng = np.random.default_rng(dim)
    embeddings = unit(rng, 300, dim).astype(np.float16)
    prototypes = unit(rng, 50, dim).astype(np.float32)
    left, right = exact(embeddings), exact(prototypes)
    scores = LinearHead(prototypes)(left)
    # Exactly, in Python's integers, for some of them.
    for row, column in rng.integers(0, 50, (20, 2)):
        whole = sum(int(a * 2**26) * int(b * 2**26) for a, b in zip(left[row], right[column], strict=True))
        assert Fraction(float(scores[row, column])) == Fraction(whole, 2**52)
    others = {
        "torch": (torch.from_numpy(left) @ torch.from_numpy(right).T).numpy(),
        "einsum": np.einsum("id,cd->ic", left, right),
        "row by row": np.stack([LinearHead(prototypes)(row[None])[0] for row in left]),
        "backwards": left[:, ::-1] @ right[:, ::-1].T,
        "column by column": sum(left[:, d, None] * right[None, :, d] for d in range(dim)),
        "pairwise": (left[:, None] * right[None]).sum(axis=2),
    }
    shuffled = rng.permutation(dim)
    others["shuffled"] = left[:, shuffled] @ right[:, shuffled].T
    for name, found in others.items():
        assert found.tobytes() == scores.tobytes(), name
    plain = embeddings.astype(np.float64) @ prototypes.T.astype(np.float64)
    assert np.abs(plain - scores).max() < 1e-7, "what rounding moves"


def test_equal_prototypes_tie_and_the_lower_class_wins():
    rng = np.random.default_rng(3)
    prototypes = unit(rng, 5, 512).astype(np.float32)
    twins = np.concatenate([prototypes, prototypes[::-1]])
    labels = np.arange(200) % 10
    embeddings = unit(rng, 200, 512).astype(np.float16)
    found = classify(embeddings, {"twins": LinearHead(twins)}, labels)["twins"]
    once = classify(embeddings, {"once": LinearHead(prototypes)}, np.minimum(labels, 9 - labels))["once"]
    assert (found.predicted == once.predicted).all() and (found.margin == 0).all()
    assert (found.rank == 2 * once.rank + (labels >= 5)).all()


def test_a_score_that_is_not_finite_is_an_error_and_never_class_0():
    embeddings = np.eye(3, 4, dtype=np.float16)
    embeddings[1, 2] = np.nan
    with pytest.raises(IntegrityError, match="not finite"):
        classify(embeddings, {"p": LinearHead(np.eye(2, 4, dtype=np.float32))}, np.zeros(3, np.int64))


def test_the_bytes_of_an_image_and_nothing_else_of_its_row_name_a_part(tmp_path: Path):
    """The same images under other labels, keys and paths share every part; one other image has one of its own."""
    from fastclip.store.parts import part_name

    file = io.BytesIO()
    Image.new("RGB", (9, 9), "red").save(file, "PNG")
    files = {f"all/a/{n}.png": image_bytes(size=(9 + n, 9)) for n in range(3)} | {"all/b/9.png": file.getvalue()}
    sharded = shard(
        write(tmp_path / "source", files), tmp_path / "shards", "set", shard_images=2, layout="domain/class"
    )
    first, second = (
        resolve(EvalOptions(backbones=("tiny",), shards=sharded.shards, store=tmp_path / "store")).targets[0].shards
    )
    assert part_name(first) != part_name(second)
    assert part_name(dataclasses.replace(first, name="z/9.tar", domain="z", index_sha256="0")) == part_name(first)
    assert part_name(dataclasses.replace(first, sha256="0" * 64)) != part_name(first)
