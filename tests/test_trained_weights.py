"""Weights that say how they were fine-tuned: read by any program, known by every reader, never taken for others."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import oracle
import pytest
import torch
from helpers import temporaries, training
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fastclip.errors import IncompleteError, IntegrityError, UserError
from fastclip.files import canonical_json
from fastclip.models.tensor_files import TensorFile
from fastclip.models.trained_weights import read_training, write_weights
from fastclip.models.weights import Weights, check_backbone, weights_in
from fastclip.proven import ProvenFile

TINY = oracle.TINY / "tiny.safetensors"


def tensors() -> dict[str, torch.Tensor]:
    """Tensors of every kind that models have, in an order that is not the file's."""
    return {
        "z.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3).T,  # not contiguous
        "counter": torch.tensor(7),
        "scale": torch.tensor(4.6052),
        "half": torch.tensor([1.5, -2.0], dtype=torch.float16),
        "brain": torch.tensor([0.1], dtype=torch.bfloat16),
        "mask": torch.tensor([True, False, True]),
        "nothing": torch.zeros(0, 3),
        "a.weight": torch.nn.Parameter(torch.ones(5)).double(),
    }


def test_a_file_is_read_by_safetensors_and_says_how_it_was_trained(tmp_path: Path):
    path, facts = tmp_path / "w.safetensors", training()
    sha256 = write_weights(path, tensors(), facts)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    found = load_file(path)
    assert found.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor.detach()), name
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    assert metadata["format"] == "pt" and json.loads(metadata["fastclip"]) == {"training": facts.to_document()}
    found = weights_in(path)
    assert (found.digest, found.training) == (sha256, facts)
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_equal_tensors_and_facts_give_equal_bytes_in_any_order_and_another_fact_gives_others(tmp_path: Path):
    files = [tmp_path / name for name in "abc"]
    write_weights(files[0], tensors(), training())
    write_weights(files[1], dict(reversed(tensors().items())), training())
    write_weights(files[2], tensors(), training(epoch=4))
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()


def test_a_file_is_replaced_whole_and_nothing_is_left_where_it_cannot_be_written(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    write_weights(path, tensors(), training())
    before = path.read_bytes()

    class Unreadable(torch.Tensor):
        """A tensor that fails while it is written."""

        def detach(self) -> torch.Tensor:
            raise OSError(28, "No space left on device")

    with pytest.raises(IncompleteError, match="No space left"):
        write_weights(path, {**tensors(), "zz": torch.ones(2).as_subclass(Unreadable)}, training())
    assert path.read_bytes() == before and not temporaries(tmp_path)


def test_weights_are_those_that_were_hashed_even_if_another_file_takes_their_name(tmp_path: Path):
    path, other = tmp_path / "w.safetensors", tmp_path / "other.safetensors"
    sha256 = write_weights(path, tensors(), training())
    write_weights(other, {name: each + 1 for name, each in tensors().items()}, training(epoch=9))
    found = weights_in(path)
    other.replace(path)
    assert (found.digest, found.training) == (sha256, training())
    assert found.file
    for name, each in TensorFile(found.file).items():
        assert torch.equal(each, tensors()[name]), name


def said(path: Path) -> Training | None:
    return read_training(ProvenFile(path, lambda how: IntegrityError(how, fix="")))


def test_other_files_say_nothing(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    write_weights(path, tensors(), training())
    whole = path.read_bytes()
    save_file({"a": torch.ones(2)}, tmp_path / "foreign", metadata={"format": "pt"})
    save_file({"a": torch.ones(2)}, tmp_path / "sealed", metadata={"fastclip": '{"facts": {}}'})
    others = {
        "empty": b"",
        "short": whole[:5],
        "cut": whole[:300],
        "archive": b"PK\x03\x04" + b"\0" * 60,
        "list": b"\x02\0\0\0\0\0\0\0[]",
        "deep": (10**5).to_bytes(8, "little") + b"[" * 10**5,
    }
    for name, data in others.items():
        (tmp_path / name).write_bytes(data)
    assert said(TINY) is None
    for name in ("foreign", "sealed", *others):
        assert said(tmp_path / name) is None, name


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "7",
        '{"training": null}',
        '{"training": {"epoch": 3}}',
        canonical_json({"training": {**training().to_document(), "epoch": "3"}}).decode(),
    ],
)
def test_a_malformed_record_is_refused(text: str, tmp_path: Path):
    save_file({"a": torch.ones(2)}, tmp_path / "w", metadata={"fastclip": text})
    with pytest.raises(IntegrityError, match="damaged record of its training"):
        said(tmp_path / "w")


def test_a_file_that_says_its_backbone_needs_no_spelling_and_is_refused_for_another(tmp_path: Path):
    path, facts = tmp_path / "w", training(backbone="ViT-B/32", architecture="ViT-B-32-quickgelu")
    path.write_bytes(b"")
    weights = Weights(weights_in(path).file, "1" * 64, facts)
    check_backbone("ViT-B/32", ["ViT-B-32"], weights)  # without the record, this spelling leaves the activation open
    with pytest.raises(UserError, match="QuickGELU or GELU"):
        check_backbone("ViT-B/32", ["ViT-B-32"], replace(weights, training=None))
    with pytest.raises(UserError, match=r"holds weights of ViT-B/32 .* none of ViT-B/16") as error:
        check_backbone("ViT-B/16", ["ViT-B/16"], weights)
    assert error.value.fix == f"-b ViT-B/32 --weights ViT-B/32={path}"
    with pytest.raises(UserError, match=r"ViT-B-32\), which are none"):  # GELU under the name of QuickGELU's
        check_backbone("ViT-B/32", ["ViT-B/32"], replace(weights, training=replace(facts, architecture="ViT-B-32")))
