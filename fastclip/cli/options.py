"""The options that several commands take: what is evaluated, and what its numbers depend on."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from fastclip.errors import UserError

if TYPE_CHECKING:
    from fastclip.evaluate.options import EvalOptions

MODEL = {"rich_help_panel": "What the numbers depend on"}
PLACE = {"rich_help_panel": "Where and how fast"}
SHOW = {"rich_help_panel": "Results"}
SPLIT = {"rich_help_panel": "Which images train and which are tested"}
HEAD = {"rich_help_panel": "Heads"}

Targets = Annotated[list[str] | None, typer.Argument(metavar="DATASET[/DOMAIN]", help="Default: all that is sharded.")]
Backbones = Annotated[
    list[str] | None,
    typer.Option("-b", "--backbone", metavar="NAME", help="ViT-B/32, tiny, or ARCH/PRETRAINED. Repeatable.", **MODEL),
]
AllBackbones = Annotated[bool, typer.Option("--all-backbones", help="OpenAI's nine.", **MODEL)]
WeightsFiles = Annotated[
    list[str] | None, typer.Option("--weights", metavar="[BACKBONE=]FILE", help="From a file. Repeatable.", **MODEL)
]
RandomWeights = Annotated[
    bool, typer.Option("--random-weights", help="Benchmarks only: the speed of a model, not its answers.", **MODEL)
]
Precision = Annotated[
    str | None, typer.Option(metavar="NAME", help="fp32, bf16 or fp16. Default: this machine's fast one.", **MODEL)
]
StoredPrecision = Annotated[
    str | None, typer.Option(metavar="NAME", help="Read only embeddings in fp32, bf16 or fp16.", **MODEL)
]
Decoder = Annotated[
    str | None, typer.Option(metavar="NAME", help="torchvision (default on a CPU) or dali (on a GPU).", **MODEL)
]
StoredDecoder = Annotated[
    str | None, typer.Option(metavar="NAME", help="Read only those decoded by torchvision or dali.", **MODEL)
]
BatchSize = Annotated[
    int | None, typer.Option(metavar="N", help="Images a forward pass. Default: 32, on a GPU 256.", **MODEL)
]
Compile = Annotated[
    str | None,
    typer.Option("--compile", metavar="WHEN", help="on or off (default). Rarely worth it on a CPU.", **MODEL),
]
Recipes = Annotated[
    list[str] | None,
    typer.Option(
        "--recipe", metavar="RECIPE", help="Read only this one, as fastclip store lists it. Repeatable.", **MODEL
    ),
]
Here = Annotated[
    bool, typer.Option("--here", help="Use only embeddings of this machine's kind; embed what is missing.", **MODEL)
]
Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="cpu or cuda. Default: the GPU where there is one.", **PLACE)
]
Shards = Annotated[
    str,
    typer.Option(
        metavar="DIR", help="Folder of all sharded datasets; may be https://, s3://, gs:// or hf://.", **PLACE
    ),
]
Prompts = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SET",
        help="transferlearning (the default), photo, openai80, or a file: templates, or texts of each class. "
        "Repeatable.",
        **MODEL,
    ),
]
Workers = Annotated[
    int | None, typer.Option(metavar="N", help="Threads that decode and embed. Default: the cores.", **PLACE)
]
Share = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="Share I of N, for workers or launchers that do not know of each other.", **PLACE),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say what is left to do, and how long it will take.", **PLACE)
]
Store = Annotated[Path, typer.Option(metavar="DIR", help="Folder of embeddings, shared by all runs.", **PLACE)]
Results = Annotated[
    Path, typer.Option("--results", metavar="DIR", help="Folder in which the results of all runs are kept.", **SHOW)
]
Json = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the result to this file too.", **SHOW)]
Predictions = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write every answer to this Parquet file too.", **SHOW)
]
FitDevice = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME",
        help="Fit on cpu or cuda. Default: a GPU where there is one and fits are long.",
        **PLACE,
    ),
]
Unreadable = Annotated[
    str, typer.Option(metavar="POLICY", help="An unreadable image counts as: stop, wrong or exclude.", **SHOW)
]


def takes_eval_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let `command(options, …)` be given `eval_options` on the command line, as if it took each of them itself."""
    return takes(eval_options, command)


def takes_stored_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let `command(options, …)` be given `stored_options` on the command line, as if it took each of them itself."""
    return takes(stored_options, command)


def takes_one_backbone(command: Callable[..., None]) -> Callable[..., None]:
    """Let `command(options, …)` be given `one_backbone` on the command line, as if it took each of them itself."""
    return takes(one_backbone, command)


def takes(make_options: Callable[..., EvalOptions], command: Callable[..., None]) -> Callable[..., None]:
    """Let `command(options, …)` be given those of `make_options` on the command line, as if it took them itself."""
    shared, own = inspect.signature(make_options).parameters, inspect.signature(command).parameters
    hints = get_type_hints(make_options, localns={"EvalOptions": Any}, include_extras=True)
    hints |= get_type_hints(command, localns={"EvalOptions": Any}, include_extras=True)

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        options = make_options(**{name: values.pop(name) for name in shared})
        command(options, **values)

    parameters = [*shared.values(), *list(own.values())[1:]]
    with_options.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [each.replace(annotation=hints[each.name]) for each in parameters]
    )
    with_options.__annotations__ = {each.name: hints[each.name] for each in parameters}
    del with_options.__wrapped__  # type: ignore[attr-defined]  # Typer would ask it for its annotations
    return with_options


def stored_options(
    backbones: Backbones = None,
    all_backbones: AllBackbones = False,
    weights: WeightsFiles = None,
    random_weights: RandomWeights = False,
    precision: StoredPrecision = None,
    decoder: StoredDecoder = None,
    recipes: Recipes = None,
    shards: Shards = "shards",
    store: Store = Path("embeddings"),
) -> EvalOptions:
    """The options of commands that read embeddings and make none: which ones. Raises `UserError`.

    The targets are the command's own.
    """
    options = eval_options(
        None, backbones, all_backbones, weights, random_weights, precision, decoder, recipes=recipes, shards=shards
    )
    return replace(options, store=store)


def one_backbone(
    backbones: Annotated[
        list[str] | None,
        typer.Option("-b", "--backbone", metavar="NAME", help="One that is embedded: ViT-B/32, tiny …", **MODEL),
    ] = None,
    weights: WeightsFiles = None,
    random_weights: RandomWeights = False,
    precision: StoredPrecision = None,
    decoder: StoredDecoder = None,
    recipes: Recipes = None,
    shards: Shards = "shards",
    store: Store = Path("embeddings"),
) -> EvalOptions:
    """The options that say which embeddings are read, of one backbone. Raises `UserError`."""
    return stored_options(
        backbones, False, weights, random_weights, precision, decoder, recipes=recipes, shards=shards, store=store
    )


def eval_options(
    targets: Targets = None,
    backbones: Backbones = None,
    all_backbones: AllBackbones = False,
    weights: WeightsFiles = None,
    random_weights: RandomWeights = False,
    precision: Precision = None,
    decoder: Decoder = None,
    batch_size: BatchSize = None,
    compile_towers: Compile = None,
    recipes: Recipes = None,
    here: Here = False,
    device: Device = None,
    shards: Shards = "shards",
) -> EvalOptions:
    """The options that say what is evaluated and what its numbers depend on. Raises `UserError`."""
    from fastclip.evaluate.options import EvalOptions
    from fastclip.models.backbones import OPENAI_BACKBONES

    names = (*(OPENAI_BACKBONES if all_backbones else ()), *(backbones or ()))
    files = _weights_by_backbone(weights, names)
    return EvalOptions(
        targets=tuple(targets or ()),
        backbones=names,
        weights=files,
        random_weights=random_weights,
        precision=precision,
        decoder=decoder,
        batch_size=batch_size,
        compile_towers=compile_towers,
        recipes=tuple(recipes or ()),
        here=here,
        device=device,
        shards=shards,
    )


def prompt_sets(given: list[str] | None) -> tuple[str, ...]:
    """The prompt sets that `--prompts` asks for."""
    return tuple(given or ("transferlearning",))


def _weights_by_backbone(given: list[str] | None, backbones: tuple[str, ...]) -> dict[str, Path]:
    """`BACKBONE=FILE` pairs; a bare FILE belongs to the only backbone."""
    weights = {}
    for text in given or ():
        name, equals, file = text.partition("=")
        if equals and not Path(text).exists():
            weights[name] = Path(file)
        elif len(backbones) == 1:
            weights[backbones[0]] = Path(text)
        else:
            fix = f"--weights ViT-B/32={text}"
            raise UserError(f"--weights {text} does not say which backbone it is for.", fix=fix)
    return weights
