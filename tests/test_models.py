"""Backbones and weights: the published architectures, OpenAI's own numbers, and no file that could run code."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import subprocess
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Program, Sharded, lively, recipe
from open_clip.model import convert_weights_to_lp
from open_clip.transformer import LayerNormFp32, QuickGELU, ResidualAttentionBlock
from safetensors.torch import load_file, save_file

from fastclip.errors import FastclipError, IntegrityError, UserError
from fastclip.files import digest_file
from fastclip.models import archives, backbones, weights
from fastclip.models.backbones import OPENAI_BACKBONES, TINY, Backbone, find_backbone
from fastclip.models.compiled import compile_visual
from fastclip.models.numerics import find_precision
from fastclip.models.rewrites import FusedAttention, fold_quick_gelu, pack_block
from fastclip.models.tower import (
    ImageTower,
    TextTower,
    build_model,
    load_image_tower,
    load_model,
    load_text_tower,
    load_visual,
)
from fastclip.models.weights import find_weights, read_weights, weights_in
from fastclip.proven import ProvenFile

CPU = torch.device("cpu")

# Of the published models: the tensors of OpenAI's archives, counted.
PARAMETERS = {
    "RN50": 102_007_137,
    "RN101": 119_688_033,
    "RN50x4": 178_300_601,
    "RN50x16": 290_979_217,
    "RN50x64": 623_258_305,
    "ViT-B/32": 151_277_313,
    "ViT-B/16": 149_620_737,
    "ViT-L/14": 427_616_513,
    "ViT-L/14@336px": 427_944_193,
}


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_nine_have_the_published_sides_and_parameters(name: str):
    before = resident_bytes()
    model = build_model(OPENAI_BACKBONES[name], drawn=False)
    assert resident_bytes() - before < PARAMETERS[name], "a quarter of its memory was written to"
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    assert model.visual.image_size in (OPENAI_BACKBONES[name].side, (OPENAI_BACKBONES[name].side,) * 2)


@pytest.mark.parametrize("drawn", [False, True])
def test_building_a_model_logs_nothing_and_moves_nobodys_random_numbers(drawn: bool, caplog: pytest.LogCaptureFixture):
    before = torch.get_rng_state()
    weight = build_model(TINY, drawn=drawn).visual.attnpool.c_proj.weight
    assert torch.equal(torch.get_rng_state(), before) and not caplog.records
    again = build_model(TINY, drawn=True).visual.attnpool.c_proj.weight
    assert torch.equal(weight, again) == drawn


@pytest.mark.parametrize("architecture", ["RN50-quickgelu", "ViT-B-32", "EVA02-B-16"])
def test_a_built_model_is_the_one_that_open_clip_creates(architecture: str):
    import open_clip

    built = build_model(Backbone(name="any", architecture=architecture, side=224), drawn=False)
    created = open_clip.create_model(architecture)
    assert type(built) is type(created) and str(built) == str(created)
    assert [*built.state_dict()] == [*created.state_dict()]


def test_backbones_are_found_by_every_familiar_spelling():
    assert list(OPENAI_BACKBONES) == list(PARAMETERS)
    for name, backbone in OPENAI_BACKBONES.items():
        for spelling in (name, name.replace("/", "-"), name.lower(), backbone.architecture):
            assert find_backbone(spelling) is backbone
    assert find_backbone("ViT-L-14-336").name == "ViT-L/14@336px"
    assert find_backbone("tiny") is TINY
    with pytest.raises(UserError, match="Did you mean ViT-B/16"):
        find_backbone("ViT-B16x")


def test_any_backbone_of_open_clip_can_be_named_and_another_preprocessing_is_refused():
    laion = find_backbone("ViT-B-32/laion2b_s34b_b79k")
    assert (laion.side, laion.architecture, laion.hub) == (224, "ViT-B-32", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K")
    assert find_backbone("ViT-B-32/metaclip_400m").architecture == "ViT-B-32-quickgelu"
    with pytest.raises(UserError, match="squash"):
        find_backbone("ViT-B-16-SigLIP/webli")
    with pytest.raises(UserError, match="no backbone"):
        find_backbone("ViT-B-32/no-such-weights")


@pytest.mark.parametrize("name", ["RN50", "ViT-B/32"])
def test_embeddings_equal_those_of_openais_own_implementation(name: str, tmp_path: Path, reference_python: Path):
    backbone = find_backbone(name)
    crops = torch.randint(0, 256, (4, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    crops[1:] //= torch.arange(2, 5, dtype=torch.uint8).view(3, 1, 1, 1)  # other images, not only other noise
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))
    pixels = (crops / 255 - mean) / std
    model = build_model(backbone, drawn=True)
    tensors = lively(model, pixels)
    save_file(tensors, tmp_path / "weights.safetensors")
    texts = ["a photo of a dog.", "a picture of a Alarm_Clock", "x"]
    inputs = {f"weights/{key}": tensor for key, tensor in tensors.items()} | {"pixels": pixels}
    save_file(inputs, tmp_path / "in.safetensors", metadata={"texts": json.dumps(texts)})
    script = Path(__file__).parent / "reference" / "openai_clip.py"
    command = [reference_python, "-W", "ignore", script, tmp_path / "in.safetensors", tmp_path / "out.safetensors"]
    subprocess.run([str(word) for word in command], check=True)
    expected = load_file(tmp_path / "out.safetensors")
    assert int(expected["parameters"]) == PARAMETERS[name]

    found = weights_in(tmp_path / "weights.safetensors")
    image_tower = load_image_tower(backbone, found, "fp32", CPU)
    text_tower = load_text_tower(backbone, found, CPU)
    model.double()
    with torch.no_grad():
        exact = {"images": model.encode_image(pixels.double()), "texts": model.encode_text(text_tower.tokenize(texts))}
    for kind, ours in (("images", image_tower(crops).vectors), ("texts", text_tower(texts, 1))):
        theirs, truth = (unit(vectors[kind]) for vectors in (expected, exact))
        assert torch.pdist(theirs).min() > 1e-3, "vectors that hardly differ prove nothing"
        rounding = (theirs - truth).abs().max()  # how far fp32 takes OpenAI's own code from float64
        assert rounding < 3e-5
        assert (ours - theirs).abs().max() <= 4 * rounding, kind


def unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


@pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="this CPU computes bf16 another way")
def test_a_packed_block_of_a_vision_transformer_computes_what_it_did():
    torch.manual_seed(0)
    block = ResidualAttentionBlock(64, 4, act_layer=QuickGELU, norm_layer=LayerNormFp32, batch_first=True).eval()
    tokens = torch.randn(3, 7, 64)
    with torch.inference_mode():
        before = block(tokens)
        fold_quick_gelu(block, torch.float32)
        block.attn = FusedAttention(block.attn)
        convert_weights_to_lp(block, dtype=torch.bfloat16)
        pack_block(block)
        after, again = block(tokens.bfloat16()).float(), block(tokens.bfloat16()).float()
    assert torch.equal(after, again), "packed for the first batch, and whole for the second"
    assert 0 < (after - before).abs().max() < 0.03, "bf16 keeps eight bits of numbers up to 4"


def test_the_same_weights_in_fp16_and_bf16_point_the_same_way():
    crops = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = find_weights(TINY, None)
    towers = {p: ImageTower(load_visual(TINY, found, p, CPU), TINY, p, CPU) for p in ("fp32", "bf16", "fp16")}
    vectors = {precision: tower(crops).vectors for precision, tower in towers.items()}
    for precision, least in (("bf16", 0.999), ("fp16", 0.99999)):
        assert (vectors[precision] * vectors["fp32"]).sum(1).min() > least, precision
        assert not torch.equal(vectors[precision], vectors["fp32"])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_norm_is_the_length_in_fp32_that_its_vector_had(precision: str):
    crops = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    tower = load_image_tower(TINY, find_weights(TINY, None), precision, CPU)
    seen = []
    tower._visual.register_forward_hook(lambda module, pixels, features: seen.append(features.float()))
    vectors, norms = tower(crops)
    features = seen[0].double().numpy()
    lengths = np.sqrt((features**2).sum(axis=1))
    assert (vectors.dtype, norms.dtype, norms.shape) == (torch.float32, torch.float32, (5,))
    assert np.allclose(norms, lengths, rtol=1e-6, atol=0) and len(set(norms.tolist())) == 5
    assert np.allclose(vectors, features / lengths[:, None], rtol=0, atol=1e-6)


def test_precision_is_the_one_that_is_asked_for_or_the_fast_one_of_the_device():
    assert find_precision("fp32", CPU) == "fp32" and find_precision("fp16", CPU) == "fp16"
    assert find_precision(None, CPU) in ("fp32", "bf16")
    assert find_precision(None, torch.device("cuda", 0)) == "fp16"
    with pytest.raises(UserError, match="fp8"):
        find_precision("fp8", CPU)


def opened(path: Path) -> ProvenFile:
    return ProvenFile(path, lambda how: IntegrityError(how, fix=""))


class Archive(torch.nn.Module):
    """Like OpenAI's archives: a TorchScript module whose state has three numbers beside the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(4.0).half())
        for number in ("input_resolution", "context_length", "vocab_size"):
            self.register_buffer(number, torch.tensor(7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


def test_an_archive_opens_only_under_a_published_digest_and_for_its_backbone(tmp_path: Path, monkeypatch):
    path = tmp_path / "RN50.pt"
    torch.jit.save(torch.jit.script(Archive()), path)
    sha256 = digest_file(path)
    rn50 = find_backbone("RN50")
    with pytest.raises(IntegrityError, match="none of OpenAI's nine"):
        read_weights(rn50, opened(path))
    monkeypatch.setitem(backbones.PUBLISHED_ARCHIVES, sha256, rn50)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        tensors = read_weights(rn50, opened(path))
        assert warnings.filters == filters, "they are everybody's"
    assert not warned, "that TorchScript is deprecated is nothing to the user"
    assert list(tensors) == ["weight"] and tensors["weight"].tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match="holds RN50, not ViT-B/32"):
        read_weights(find_backbone("ViT-B/32"), opened(path))


def test_the_published_digests_are_those_in_open_clips_addresses():
    import open_clip

    assert len(backbones.PUBLISHED_ARCHIVES) == 9
    for backbone in OPENAI_BACKBONES.values():
        source = open_clip.get_pretrained_cfg(backbone.architecture, "openai")
        assert source["url"].split("/")[-2:] == [backbone.archive_sha256, backbone.archive]
        assert source["hf_hub"].rstrip("/") == backbone.hub


def test_a_pickled_file_is_refused_unopened(tmp_path: Path):
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self):
            return (canary.touch, ())

    torch.save({"weight": Evil()}, tmp_path / "new.pt")
    torch.save({"weight": Evil()}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("new.pt", "old.pt"):
        with pytest.raises(FastclipError):
            read_weights(TINY, opened(tmp_path / name))
    assert not canary.exists()


def test_weights_of_16_bits_give_the_vectors_of_the_same_numbers_in_32(tmp_path: Path):
    path = find_weights(TINY, None).path
    assert path is not None
    halves = {name: tensor.half() for name, tensor in load_file(path).items()}
    save_file(halves, tmp_path / "half.safetensors")
    save_file({name: tensor.float() for name, tensor in halves.items()}, tmp_path / "whole.safetensors")
    half, whole = (weights_in(tmp_path / f"{name}.safetensors") for name in ("half", "whole"))
    crops = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    for precision in ("fp32", "bf16"):
        images = [load_image_tower(TINY, each, precision, CPU)(crops) for each in (half, whole)]
        assert all(torch.equal(*pair) for pair in zip(*images, strict=True)), "vectors and norms"
    assert torch.equal(*(load_text_tower(TINY, each, CPU)(["a photo of a dog."], 1) for each in (half, whole)))


def test_damaged_or_other_weights_are_refused_with_the_tensor_named(tmp_path: Path):
    path = find_weights(TINY, None).path
    assert path is not None
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="damaged"):
        read_weights(TINY, opened(tmp_path / "cut.safetensors"))
    tensors = load_file(path)
    del tensors["text_projection"]
    save_file(tensors, tmp_path / "less.safetensors")
    with pytest.raises(IntegrityError, match="text_projection"):
        load_model(TINY, weights_in(tmp_path / "less.safetensors"))


def test_every_look_for_weights_hashes_the_file_as_it_is_then(tmp_path: Path):
    path, rn50 = tmp_path / "w.safetensors", find_backbone("RN50")
    for content in (b"", b"weights", b"WEIGHTS"):
        path.write_bytes(content)
        assert find_weights(rn50, path).digest == hashlib.sha256(content).hexdigest()
    both = weights.find_all_weights({rn50: path, TINY: None}, cores=2)
    assert [each.digest for each in both.values()] == [
        find_weights(b, p).digest for b, p in ((rn50, path), (TINY, None))
    ]


def in_a_thread(function: Callable[[], Any]) -> Any:
    """The result of `function`, run in a thread of its own."""
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return pool.submit(function).result()


def test_a_compilers_settings_hold_in_every_thread_that_compiles_and_nowhere_else(tmp_path: Path, monkeypatch):
    """A tower is loaded in one thread and may be built in another. torch keeps its settings thread by thread."""
    import torch._dynamo.config as dynamo
    import torch._inductor.compile_fx as inductor
    from torch._inductor import config

    def settings() -> tuple[object, ...]:
        level = logging.getLogger("torch.utils.cpp_extension").level
        folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
        return config.deterministic, config.compile_threads, dynamo.recompile_limit, level, folder

    def build_nothing(graph: object, inputs: object, **options: object) -> object:
        built.append(settings())
        return graph

    built: list[tuple[object, ...]] = []
    monkeypatch.setattr(inductor, "compile_fx", build_nothing)
    monkeypatch.setenv("HOME", str(tmp_path))
    before = settings()
    layer = torch.nn.Linear(3, 2).requires_grad_(False)
    compiled = in_a_thread(lambda: compile_visual(layer, "toy", CPU))
    for rows in (2, 2, 4):
        batch = torch.ones(rows, 3)
        assert torch.equal(in_a_thread(partial(compiled, batch)), layer(batch))
        assert settings() == before
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "given")
    in_a_thread(partial(compiled, torch.ones(5, 3)))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "given"
    assert [each[:4] for each in built] == [(True, 1, 64, logging.ERROR)] * 3, "once for each shape"
    first, second, third = (Path(str(each[4])) for each in built)
    assert first == second and first.parent == tmp_path / ".cache/fastclip/compiled" and third == Path("given")


def test_weights_are_found_in_the_hubs_cache_and_in_openais(tmp_path: Path, monkeypatch):
    rn50 = find_backbone("RN50")
    monkeypatch.setattr(archives, "archive_folder", lambda: tmp_path)
    monkeypatch.setattr(weights, "archive_folder", lambda: tmp_path)
    (tmp_path / "RN50.pt").write_bytes(b"archive")
    assert find_weights(rn50, None).path == tmp_path / "RN50.pt"
    hub = tmp_path / "hub" / "models--timm--resnet50_clip.openai"
    snapshot = hub / "snapshots" / "0123456789012345678901234567890123456789"
    snapshot.mkdir(parents=True)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text(snapshot.name)
    (snapshot / weights.HUB_FILE).write_bytes(b"tensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    assert find_weights(rn50, None).path == snapshot / weights.HUB_FILE


def test_without_weights_two_lines_say_which_file_is_missing_and_how_to_get_it(
    shapes, fastclip: Program, tmp_path: Path
):
    offline = dataclasses.replace(fastclip, environment={"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf")})
    outcome = offline("eval", "shapes", "-b", "ViT-B/32", "--shards", shapes.shards)
    assert (outcome.code, outcome.out) == (2, "")
    what, how = outcome.err.splitlines()
    for part in ("ViT-B/32", "open_clip_model.safetensors", str(tmp_path / "hf"), "ViT-B-32.pt", ".cache/clip"):
        assert part in what
    assert "hf download timm/vit_base_patch32_clip_224.openai" in how and "--weights" in how


def test_a_text_tower_of_another_make_reads_whole_prompts_and_agrees():
    """open_clip's other class of CLIP, with the same weights, is not trimmed: the padding changes nothing."""
    import open_clip
    from open_clip.model import CustomTextCLIP, convert_to_custom_text_state_dict

    ours = load_text_tower(TINY, find_weights(TINY, None), CPU)
    path = find_weights(TINY, None).path
    assert path is not None
    tensors = convert_to_custom_text_state_dict(dict(read_weights(TINY, opened(path))))
    model = CustomTextCLIP(**open_clip.get_model_config(TINY.architecture))
    model.load_state_dict(tensors)
    other = TextTower(model, open_clip.get_tokenizer(TINY.architecture), CPU)
    texts = ["star", "a photo of a half moon.", "a bad photo of a ring among many other things"]
    assert (ours(texts, 1) - other(texts, 1)).abs().max() < 1e-6


def test_a_prompt_that_does_not_fit_is_refused_instead_of_cut():
    tower: TextTower = load_text_tower(TINY, find_weights(TINY, None), CPU)
    with pytest.raises(UserError, match="40 tokens; 30 fit"):
        tower.tokenize(["star " * 40])
    assert np.array_equal(tower.tokenize(["star"]).shape, (1, 32))


def test_an_architectures_name_says_its_activation_as_open_clip_has_it():
    import open_clip

    tested = 0
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        if name.startswith(("RN", "ViT-")) and "timm_model_name" not in config["vision_cfg"]:
            quick = bool(config.get("quick_gelu"))
            assert recipe(architecture=name).activation == ("QuickGELU" if quick else "GELU"), name
            tested += 1
    assert tested > 30
    tiny = json.loads((Path(weights.__file__).parent / "tiny" / "fastclip-tiny.json").read_bytes())
    assert recipe(architecture=TINY.architecture).activation == "QuickGELU" and tiny["quick_gelu"] is True


@pytest.mark.parametrize("name", ["ViT-B/32", "ViT-B-32", "vit-b-32", "RN50"])
def test_a_file_whose_activation_nobody_names_is_refused_with_both_spellings(
    name: str, shapes: Sharded, fastclip: Program
):
    (fastclip.folder / "w.safetensors").write_bytes(b"of any make")
    outcome = fastclip.here("eval", "shapes", "-b", name, "--weights", "w.safetensors", "--shards", shapes.shards)
    assert (outcome.code, outcome.out) == (2, "")
    what, fix = outcome.err.splitlines()
    architecture = find_backbone(name).architecture
    assert name in what and "w.safetensors" in what and "GELU" in what
    assert f"-b {architecture} --weights" in fix
    assert f"-b {architecture.removesuffix('-quickgelu')}/PRETRAINED --weights" in fix


def test_a_word_or_a_published_digest_decides_the_activation(tmp_path: Path, monkeypatch):
    (tmp_path / "w").write_bytes(b"")
    unknown = weights.Weights(opened(tmp_path / "w"), "0" * 64)
    for spellings in (["ViT-B-32-quickgelu"], ["ViT-B/32", "ViT-B-32-quickgelu"]):
        weights.check_backbone("ViT-B/32", spellings, unknown)
    for other in ("tiny", "ViT-B-32/laion2b_s34b_b79k", "ViT-B-32/openai"):
        weights.check_backbone(other, [other], unknown)
    with pytest.raises(UserError, match="QuickGELU or GELU"):
        weights.check_backbone("ViT-B/32", ["ViT-B-32", "ViT-B-16-quickgelu"], unknown)
    archive = OPENAI_BACKBONES["ViT-B/32"].archive_sha256
    assert archive
    weights.check_backbone("ViT-B/32", ["ViT-B/32"], weights.Weights(unknown.file, archive))
    made = recipe(weights=archive, architecture="ViT-B-32-quickgelu")
    assert weights.describe_weights(made) == "weights 40d365715913 (OpenAI's ViT-B-32.pt, QuickGELU)"
    made = recipe(architecture="ViT-B-32")
    assert weights.describe_weights(made, Path("laion.safetensors")) == f"weights {'0' * 12} (laion.safetensors, GELU)"


def test_table_record_status_and_messages_name_the_weights(shapes: Sharded, fastclip: Program):
    (fastclip.folder / "mine.safetensors").write_bytes(Path(str(find_weights(TINY, None).path)).read_bytes())
    with (fastclip.folder / "mine.safetensors").open("rb") as file:
        sha256 = hashlib.sha256(file.read()).hexdigest()
    words = ("shapes/flat", "-b", "tiny", "--weights", "mine.safetensors", "--shards", shapes.shards)
    outcome = fastclip.here("eval", *words, "--json", "r.json")
    assert f"tiny: weights {sha256[:12]} (QuickGELU)." in outcome.out.splitlines()
    assert f"tiny: weights {sha256[:12]} (mine.safetensors, QuickGELU)." in outcome.err.splitlines()
    (used,) = json.loads((fastclip.folder / "r.json").read_bytes())["recipes"]
    assert (used["recipe"]["weights"], used["activation"]) == (sha256, "QuickGELU")
    assert f"weights {sha256[:12]} (mine.safetensors, QuickGELU)" in " ".join(
        fastclip.here("status", *words).out.split()
    )
    again = fastclip.here("eval", *words[:3], *words[-2:])
    kept = outcome.err.splitlines(keepends=True)[-1]
    assert (again.out, again.err) == (outcome.out, kept), "the table does not hang on where the file is"
