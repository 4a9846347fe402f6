"""`fastclip.evaluate`: what `fastclip eval` does, in this process and without its prints."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastclip.api.border import Names, alone, border, names_of
from fastclip.api.result import Result
from fastclip.errors import FastclipError, IncompleteError

if TYPE_CHECKING:
    from fastclip.evaluate.given_heads import GivenHead
    from fastclip.evaluate.options import EvalOptions
    from fastclip.evaluate.setup import Setup


def evaluate(
    datasets: Names,
    backbones: Names,
    prompts: Names = "transferlearning",
    *,
    embed: bool = False,
    heads: Names = (),
    weights: str | Path | Mapping[str, str | Path] | None = None,
    precision: str | None = None,
    decoder: str | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    recipes: Names = (),
    workers: int | None = None,
    shards: str | Path = "shards",
    store: str | Path = "embeddings",
    unreadable: str = "stop",
    on_images: Callable[[int], None] | None = None,
) -> Result:
    """Score backbones on sharded datasets, zero-shot and by given heads: the numbers of `fastclip eval`, byte for byte.

    By default only stored embeddings are read, which takes seconds and needs neither weights nor a GPU. Where some are
    missing, `IncompleteError` names the command that makes them. With `embed=True` this process makes them itself, and
    leaves every setting of torch and of the process as it was. Prompts that nobody asked for before are embedded in
    either case, which needs the weights, and are kept.

        result = fastclip.evaluate("pacs", ["RN50", "ViT-B/32"], ["transferlearning", "photo"])
        result.table()

    datasets    DATASET or DATASET/DOMAIN, one or several
    backbones   ViT-B/32, tiny, or ARCHITECTURE/PRETRAINED of open_clip, one or several
    prompts     transferlearning, photo, openai80, or files of templates or of each class's texts, one or several
    heads       files that `fastclip probe --save` kept, scored beside zero-shot
    weights     a file, or a file for each backbone by name; by default they are looked for
    precision   fp32, bf16 or fp16; decoder: torchvision or dali; device: cpu or cuda; recipes: beginnings of the names
                that `fastclip store` lists. Given, they filter what is read, and say how to embed
    batch_size  images a forward pass; workers: threads that decode and embed
    shards      the folder of all sharded datasets, or an address (https, s3, gs, hf); store: the folder of embeddings
    unreadable  an unreadable image counts as: stop (no accuracy), wrong or exclude
    on_images   called with the number of images that were embedded since the last call

    Raises `UserError` for what does not exist, `IncompleteError` for what is missing, and `IntegrityError` for bytes
    that are not what they should be. One call works at a time; a second one, of another thread, waits.
    """
    with border():
        from fastclip.evaluate.options import EvalOptions

        chosen = names_of(backbones)
        options = EvalOptions(
            targets=names_of(datasets), backbones=chosen, prompts=names_of(prompts), weights=_files(weights, chosen),
            precision=precision, decoder=decoder, batch_size=batch_size, device=device, recipes=names_of(recipes),
            workers=workers, shards=str(shards), store=Path(store), unreadable=unreadable,
        )  # fmt: skip
        given: Sequence[GivenHead] = ()
        if files := names_of(heads):
            from fastclip.evaluate.given_heads import load_heads, options_with

            given = load_heads(map(Path, files))
            options = options_with(options, given)
        return _result(options, given, embed=embed, on_images=on_images or (lambda images: None))


def _result(
    options: EvalOptions, heads: Sequence[GivenHead], *, embed: bool, on_images: Callable[[int], None]
) -> Result:
    from fastclip.api.scored import scored
    from fastclip.evaluate.given_heads import heads_by_domain
    from fastclip.evaluate.run import embed_and_score, score_all
    from fastclip.evaluate.setup import resolve
    from fastclip.features.choose import NotStoredError

    def embed_missing(setup: Setup) -> list[FastclipError]:
        from fastclip.evaluate.embedding import embed

        return embed(setup, on_images).failures

    def resolve_alone() -> Setup:
        try:
            return resolve(options, alone(), only_stored=not embed)
        except NotStoredError as error:
            _check_backbones(options)
            cure = f"{command_line(options)}, or embed=True to embed in this process"
            raise NotStoredError(str(error), fix=cure) from None

    setup = resolve_alone()
    heads_by_domain(setup, heads)  # a head that does not fit is refused before the work
    found = embed_and_score(setup, embed_missing, lambda setup: score_all(setup, heads), resolve_alone)
    if not found.evaluation.complete:
        raise (
            found.failures[0]
            if found.failures
            else IncompleteError(
                "Embeddings were removed while they were read.", fix="Call it again; it goes on where it was."
            )
        )
    return Result([scored("eval", found.evaluation, found.answers)])


def _check_backbones(options: EvalOptions) -> None:
    """Raise `UserError` for a backbone that is neither in the store nor known: its name is misspelt."""
    from fastclip.models.backbones import find_backbone, plain
    from fastclip.store.store import Store

    stored = {plain(recipe.backbone) for recipe in Store(options.store).recipes()}
    for name in options.backbones:
        if plain(name) not in stored:
            find_backbone(name)


def command_line(options: EvalOptions) -> str:
    """The command that embeds what `options` ask for."""
    words = ["fastclip", "eval", *options.targets]
    for name, values in (("-b", options.backbones), ("--recipe", options.recipes)):
        words += [word for value in values for word in (name, value)]
    words += [word for name, file in options.weights.items() for word in ("--weights", f"{name}={file}")]
    for name in ("precision", "decoder", "batch_size", "device"):
        if (value := getattr(options, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    for name, usual in (("shards", "shards"), ("store", "embeddings")):
        if str(getattr(options, name)) != usual:
            words += [f"--{name}", str(getattr(options, name))]
    return shlex.join(words)


def _files(weights: str | Path | Mapping[str, str | Path] | None, backbones: Sequence[str]) -> dict[str, Path]:
    from fastclip.errors import UserError

    if isinstance(weights, Mapping):
        return {name: Path(path) for name, path in weights.items()}
    if weights is None:
        return {}
    if len(backbones) != 1:
        raise UserError(f"The weights {weights} do not say which backbone they are for.", fix="weights={'RN50': FILE}")
    return {backbones[0]: Path(weights)}
