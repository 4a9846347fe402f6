"""The run of `prompts check`: findings, what could not be looked at, and the exit code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fastclip.cli.console import counted, out
from fastclip.errors import EXIT_USAGE, FastclipError, UserError, needs_torch, printable

if TYPE_CHECKING:
    from fastclip.data.shards.targets import Target
    from fastclip.prompts.check import Finding
    from fastclip.text.prompt_sets import PromptSet

USUAL = "ViT-B/32"
"""The backbone by whose tokenizer lengths are counted where none is named: OpenAI's nine share it."""


def check_and_print(file: str, dataset: str | None, backbone: str | None, shards: str, store: Path) -> None:
    """Print what is found about a prompt set. Raises `typer.Exit` with 2 if eval would refuse it."""
    from fastclip.prompts.check import check_fit, check_texts, prompts_by_class
    from fastclip.text.prompts import find_prompt_set

    prompts = find_prompt_set(file)
    target = _target(dataset, shards) if dataset else None
    found = list(check_fit(prompts, target)) if target else []
    by_class = prompts_by_class(prompts, None if any(each.refused for each in found) else target)
    found += check_texts(by_class)
    left_out = []
    try:
        found += _lengths(by_class, backbone or USUAL)
    except FastclipError as error:
        left_out.append(f"the number of tokens: {error}")
    if not (target and backbone):
        left_out.append("equal prototypes, which need a DATASET and -b BACKBONE")
    elif any(each.refused for each in found):
        left_out.append("equal prototypes: the set is refused")
    else:
        try:
            found += _prototypes(file, target, backbone, shards, store)
        except FastclipError as error:
            left_out.append(f"equal prototypes: {error}")
    _print(prompts, by_class, target, found, left_out)
    if any(each.refused for each in found):
        raise typer.Exit(EXIT_USAGE)


def _target(dataset: str, shards: str) -> Target:
    from fastclip.data.shards.targets import find_targets

    return find_targets(shards, [dataset])[0]


def _lengths(by_class: Mapping[str, Sequence[str]], backbone: str) -> list[Finding]:
    from fastclip.cli.lean import load_lean
    from fastclip.cli.progress import silence
    from fastclip.prompts.check import check_lengths

    with needs_torch(), silence.at("loading the tokenizer"):
        load_lean()
        from fastclip.models.backbones import find_backbone
        from fastclip.models.tower import find_tokenizer

        return list(check_lengths(by_class, find_tokenizer(find_backbone(backbone).architecture)))


def _prototypes(file: str, target: Target, backbone: str, shards: str, store: Path) -> list[Finding]:
    from fastclip.cli.progress import silence
    from fastclip.evaluate.options import EvalOptions
    from fastclip.evaluate.prototypes import find_all_prototypes
    from fastclip.evaluate.setup import resolve
    from fastclip.prompts.check import check_prototypes

    with silence.at("computing prototypes"):
        options = EvalOptions(
            targets=(target.name,), backbones=(backbone,), prompts=(file,), shards=shards, store=store
        )
        setup = resolve(options, only_stored=True)
        (name,) = setup.backbones
        (prototypes,) = find_all_prototypes(setup, setup.targets[0])[name].values()
    return list(check_prototypes(target.manifest.classes, prototypes))


def _print(
    prompts: PromptSet,
    by_class: Mapping[str, Sequence[str]],
    target: Target | None,
    found: Sequence[Finding],
    left_out: Sequence[str],
) -> None:
    console = out()
    for each in found:
        console.print(printable(f"{'Refused' if each.refused else 'Look at'}: {each.text}"))
    for line in left_out:
        console.print(printable(f"Left out: {line.rstrip('.')}."), style="dim")
    what = counted(len(prompts.templates), "template")
    if prompts.texts:
        texts, classes = sum(map(len, prompts.texts.values())), len(prompts.texts)
        what = f"{counted(texts, 'text')} of {classes:,} class{'es' * (classes != 1)}"
    where = f", on {target.name}" if target else ""
    refused = sum(each.refused for each in found)
    verdict = "nothing found" if not found else f"{counted(len(found), 'finding')}, {refused or 'none'} of them refused"
    console.print(printable(f"{prompts.name}: {what}{where}: {verdict}."))


def check_one(dataset: str | None) -> None:
    """Raise `UserError` for a domain: prompts belong to a dataset."""
    if dataset and "/" in dataset:
        raise UserError("Prompts are checked against a dataset, not a domain.", fix=dataset.partition("/")[0])
