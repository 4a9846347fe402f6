"""Train the backbone `tiny` on drawn shapes: `python -m fastclip.models.tiny.train` (minutes on two cores).

It writes tiny.safetensors (fp16) and train.log beside this file. HELD_OUT_DOMAIN is never trained on, and the seed of
the scored dataset is refused: what `fastclip demo` prints is measured on images that the backbone has not seen.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np
import open_clip
import PIL
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from fastclip.data.shapes import CLASSES, DOMAINS, HELD_OUT_DOMAIN, SCORED_SEED, draw_image, draw_shapes

FOLDER = Path(__file__).parent
CONFIG = FOLDER / "fastclip-tiny.json"
TRAINING_DOMAINS = tuple(domain for domain in DOMAINS if domain != HELD_OUT_DOMAIN)
VALIDATION_SEED = 2
VALIDATION_IMAGES_PER_CLASS = 50
LARGEST_FILE_BYTES = 8_000_000
LOG_STEPS = 100
PROMPT_SETS: dict[str, Callable[[str], list[str]]] = {
    "folder names": lambda name: [f"a picture of a {name}"],
    "a photo of a {}.": lambda name: [f"a photo of a {name.replace('_', ' ')}."],
    "80 templates": lambda name: [fill(name.replace("_", " ")) for fill in open_clip.OPENAI_IMAGENET_TEMPLATES],
}
TRAINING_TEMPLATES = ("{}", "a {}", "a picture of a {}", "a photo of a {}.", "the shape of a {}", "an image of a {}.")
"""Filled with raw and readable names, beside the 80 templates. Training sees all prompts: `tiny` is no test of them."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    seed: int = 1
    """Of the training images, of the first weights and of the order of the images."""
    images_per_class: int = 400
    """In each training domain."""
    first_epochs: int = 4
    """Over the first training domain alone. On all of them at once the loss stayed at ln 12 for 350 steps and more."""
    epochs: int = 12
    """Over all training domains, after the first epochs."""
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    """At the end of the warm-up; a cosine takes it to zero."""
    weight_decay: float = 0.05
    warmup_steps: int = 50
    threads: int = 2

    def __post_init__(self) -> None:
        if self.seed in (SCORED_SEED, VALIDATION_SEED):
            raise ValueError(f"seed {self.seed} draws the scored or the validation images; train with another one.")


class Log:
    """Lines to the screen and to a file."""

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def __call__(self, line: str) -> None:
        print(line, flush=True)
        print(line, file=self.file, flush=True)


def draw_crops(cell: tuple[str, str], *, seed: int, count: int, side: int) -> UInt8[np.ndarray, "count side side 3"]:
    """Draw `count` images of one (domain, class) and crop them as CLIP does, up to the conversion to numbers."""
    domain, class_name = cell
    crop = Compose([Resize(side, InterpolationMode.BICUBIC), CenterCrop(side)])
    place = [seed, DOMAINS.index(domain), CLASSES.index(class_name)]
    images = (draw_image(domain, class_name, np.random.default_rng([*place, index])) for index in range(count))
    return np.stack([np.asarray(crop(image)) for image in images])


def draw_training_set(options: TrainOptions, side: int) -> tuple[UInt8[Tensor, "n 3 side side"], Int[Tensor, " n"]]:
    """Every crop and its class index, domain after domain."""
    cells = [(domain, class_name) for domain in TRAINING_DOMAINS for class_name in CLASSES]
    draw = partial(draw_crops, seed=options.seed, count=options.images_per_class, side=side)
    with ProcessPoolExecutor(options.threads) as processes:
        crops = np.concatenate(list(processes.map(draw, cells)))
    labels = torch.tensor([CLASSES.index(class_name) for _, class_name in cells])
    return torch.from_numpy(crops).permute(0, 3, 1, 2), labels.repeat_interleave(options.images_per_class)


def training_tokens(tokenizer: open_clip.SimpleTokenizer) -> Int[Tensor, "templates classes context"]:
    readable = [name.replace("_", " ") for name in CLASSES]
    names = [
        [template.format(name) for name in names] for template in TRAINING_TEMPLATES for names in (CLASSES, readable)
    ]
    names += [[template(name) for name in readable] for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    return torch.stack([tokenizer(texts) for texts in names])


def normalise(crops: UInt8[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch 3 side side"]:
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
    return (crops.float() / 255 - mean) / std


def batches(options: TrainOptions, count: int) -> list[Int[Tensor, " batch"]]:
    """The rows of every step: shuffled each epoch, the remainder of an epoch left out."""
    generator = torch.Generator().manual_seed(options.seed)
    counts = [count // len(TRAINING_DOMAINS)] * options.first_epochs + [count] * options.epochs
    orders = [torch.randperm(count, generator=generator) for count in counts]
    return [rows for order in orders for rows in order.split(options.batch_size) if len(rows) == options.batch_size]


def train(model: open_clip.CLIP, options: TrainOptions, log: Log) -> None:
    """Cross-entropy of each image against the twelve classes, under one template a step that both towers learn from."""
    start = time.perf_counter()
    crops, labels = draw_training_set(options, model.visual.image_size)
    log(f"drew {len(crops)} training images of {', '.join(TRAINING_DOMAINS)} in {time.perf_counter() - start:.0f} s")
    tokens = training_tokens(open_clip.get_tokenizer(CONFIG.stem))
    # Random vectors tell tokens apart well enough; training the table would cost more than the rest of the text tower.
    model.token_embedding.requires_grad_(False)
    head = torch.nn.Linear(model.text_projection.shape[1], len(CLASSES))
    plan = batches(options, len(crops))
    first_steps = options.first_epochs * (len(crops) // len(TRAINING_DOMAINS) // options.batch_size)
    optimizer, scheduler = optimizer_for([model, head], options, len(plan))
    start, loss_sum, right_sum = time.perf_counter(), 0.0, 0
    model.train().to(memory_format=torch.channels_last)
    for step, rows in enumerate(plan, start=1):
        images = normalise(augment(crops[rows], negatives=step > first_steps))
        images = images.contiguous(memory_format=torch.channels_last)
        template = int(torch.randint(len(tokens), ()))
        loss, right = step_loss(model, head, images, tokens[template], labels[rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        loss_sum, right_sum = loss_sum + loss.item(), right_sum + right
        if step % LOG_STEPS == 0:
            seconds = time.perf_counter() - start
            seen = LOG_STEPS * options.batch_size
            log(f"step {step}/{len(plan)}  loss {loss_sum / LOG_STEPS:.4f}  right {right_sum}/{seen}  {seconds:.0f} s")
            loss_sum, right_sum = 0.0, 0
    log(f"trained {len(plan)} steps of {options.batch_size} images in {time.perf_counter() - start:.0f} s")


def augment(crops: UInt8[Tensor, "batch 3 side side"], *, negatives: bool) -> UInt8[Tensor, "batch 3 side side"]:
    """Mirror the batch or not, give it one of the six orders of the colour channels, make every fifth a negative.

    Negatives because strokes are light on dark in one training domain, and dark on light in none.
    """
    crops = crops[:, torch.randperm(3)]
    crops = crops.flip(3) if torch.rand(()) < 0.5 else crops
    return 255 - crops if negatives and torch.rand(()) < 0.2 else crops


def step_loss(
    model: open_clip.CLIP,
    head: torch.nn.Linear,
    images: Float[Tensor, "batch 3 side side"],
    tokens: Int[Tensor, "classes context"],
    labels: Int[Tensor, " batch"],
) -> tuple[Float[Tensor, ""], int]:
    """The loss, and how many images the prototypes got right.

    The loss is CLIP's against the prototypes plus that of a linear head, which is thrown away after training: it shows
    the image tower the classes while the prototypes still lie close together.
    """
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = model.encode_image(images)
    embeddings = embeddings.float()
    prototypes = model.encode_text(tokens, normalize=True)
    logits = model.logit_scale.exp() * functional.normalize(embeddings, dim=1) @ prototypes.T
    loss = functional.cross_entropy(logits, labels) + functional.cross_entropy(head(embeddings), labels)
    return loss, int((logits.argmax(1) == labels).sum())


def optimizer_for(
    modules: Sequence[torch.nn.Module], options: TrainOptions, steps: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW without decay on gains, biases and the logit scale; a linear warm-up, then a cosine to zero."""
    values = [value for module in modules for value in module.parameters() if value.requires_grad]
    groups = [
        {"params": [value for value in values if value.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [value for value in values if value.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=options.learning_rate)

    def share(step: int) -> float:
        return min((step + 1) / options.warmup_steps, (1 + math.cos(math.pi * step / steps)) / 2)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def save(model: open_clip.CLIP, path: Path) -> str:
    """Write the weights in fp16; return the file's SHA-256."""
    halves = {
        name: value.half() if value.is_floating_point() else value
        for name, value in ((name, value.detach().contiguous()) for name, value in model.state_dict().items())
    }
    save_file(halves, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors leaves 0600, which another user of an installed package could not read
    assert path.stat().st_size <= LARGEST_FILE_BYTES, f"{path.name} has {path.stat().st_size} bytes: too many to ship."
    return hashlib.sha256(path.read_bytes()).hexdigest()


@torch.inference_mode()
def validate(weights: Path, log: Log) -> None:
    """Load `weights` as any open_clip program would and log how many validation images are right, domain by domain."""
    model, _, preprocess = open_clip.create_model_and_transforms(CONFIG.stem, pretrained=str(weights))
    model.eval()
    prototypes = {title: text_prototypes(model, fill) for title, fill in PROMPT_SETS.items()}
    with tempfile.TemporaryDirectory() as folder:
        draw_shapes(Path(folder), seed=VALIDATION_SEED, images_per_class=VALIDATION_IMAGES_PER_CLASS)
        for domain in DOMAINS:
            files = sorted((Path(folder) / domain).glob("*/*"))
            labels = torch.tensor([CLASSES.index(file.parent.name) for file in files])
            embeddings = embed(model, files, preprocess)
            held_out = "  (held out)" if domain == HELD_OUT_DOMAIN else ""
            for title, unit_vectors in prototypes.items():
                right = int(((embeddings @ unit_vectors.T).argmax(1) == labels).sum())
                log(f"validation  {domain}  {title}: {right}/{len(files)} = {100 * right / len(files):.2f} %{held_out}")


def embed(
    model: open_clip.CLIP, files: Sequence[Path], preprocess: Callable[[Image.Image], Tensor]
) -> Float[Tensor, "files dim"]:
    batches = [files[first : first + 100] for first in range(0, len(files), 100)]
    images = (torch.stack([preprocess(Image.open(file)) for file in batch]) for batch in batches)
    return torch.cat([model.encode_image(batch, normalize=True) for batch in images])


def text_prototypes(model: open_clip.CLIP, fill: Callable[[str], list[str]]) -> Float[Tensor, "classes dim"]:
    """One unit vector a class: the mean over its prompts' unit vectors, made unit again."""
    tokenizer = open_clip.get_tokenizer(CONFIG.stem)
    means = [model.encode_text(tokenizer(fill(name)), normalize=True).mean(0) for name in CLASSES]
    return functional.normalize(torch.stack(means), dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fastclip.models.tiny.train", description=__doc__)
    for name in ("seed", "images_per_class", "first_epochs", "epochs", "threads"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(TrainOptions, name))
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for tiny.safetensors and train.log")
    arguments = vars(parser.parse_args())
    out: Path = arguments.pop("out")
    options = TrainOptions(**arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    open_clip.add_model_config(CONFIG)
    with (out / "train.log").open("w", encoding="utf-8") as file:
        log = Log(file)
        log(f"command: {parser.prog} {shlex.join(sys.argv[1:])}".rstrip())
        log(f"{options}")
        log(
            f"seeds: training {options.seed}, validation {VALIDATION_SEED}; the scored one, {SCORED_SEED}, is not drawn"
        )
        versions = {"python": platform.python_version(), "torch": torch.__version__, "open_clip": open_clip.__version__}
        versions |= {"numpy": np.__version__, "pillow": PIL.__version__}
        log("versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()))
        model = open_clip.create_model(CONFIG.stem)
        train(model, options, log)
        digest = save(model, out / "tiny.safetensors")
        validate(out / "tiny.safetensors", log)
        log(f"tiny.safetensors: {(out / 'tiny.safetensors').stat().st_size} bytes, sha256 {digest}")


if __name__ == "__main__":
    main()
