"""Embeds what is missing: passes over the images that memory allows, and shards that kill in processes of their own."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

import torch

from fastclip.embed.attempts import Attempts
from fastclip.embed.loop import EmbeddingLoop, StageSeconds
from fastclip.embed.plan import Unit, shares, work_order
from fastclip.errors import EXIT_INCOMPLETE, GO_ON, FastclipError, IncompleteError
from fastclip.evaluate.engine import Candidate, Engine
from fastclip.evaluate.prototypes import check_prompts
from fastclip.evaluate.setup import Setup
from fastclip.files import canonical_json, digest
from fastclip.machine import SIGNALS, end_with_parent
from fastclip.models.backbones import embedding_dim
from fastclip.models.numerics import fix_numerics, fixed_numerics, free_memory, is_out_of_memory
from fastclip.models.tower import ImageTower, load_image_tower
from fastclip.pixels.decoders import make_decoder
from fastclip.threads import threads

Launch: TypeAlias = Callable[[Callable[[], Any]], Any]
"""Calls its argument, on a GPU in the one thread that hands it work: cuDNN chooses its kernels anew in every other."""

SHARDS_OPENING_ON_GPU = 4
"""Shards that are opened at once for a GPU. One thread opens 5,936 photos/s beside an H100, whose ViT-B/32 alone embeds
25,842 images/s."""


@dataclass
class Embedding:
    """The outcome of embedding: seconds by stage, and why shards could not be embedded."""

    seconds: StageSeconds = field(default_factory=StageSeconds)
    failures: list[FastclipError] = field(default_factory=list)
    """The gravest first: bytes that are not the manifest's before files that cannot be read."""


def is_missing(setup: Setup, unit: Unit) -> bool:
    """Whether a part of the unit is not published yet."""
    return not all(setup.store.has(recipe.id, unit.part) for recipe in unit.recipes.values())


def missing_units(setup: Setup) -> list[Unit]:
    """The units that have something to be embedded, as far as one listing of each recipe tells."""
    given_up = Attempts(setup.store.folder).all_given_up()
    for recipe_id in {recipe.id for unit in setup.units for recipe in unit.recipes.values()}:
        setup.store.parts(recipe_id)
    return [unit for unit in setup.units if _owed(setup, unit) and not (given_up and unit.id in given_up)]


def owed_passes(setup: Setup, missing: Sequence[Unit]) -> list[list[Candidate]]:
    """The backbones that any of the `missing` units owes, in as few passes over the images as memory allows."""
    if not setup.engine:
        return []
    owed = {name for unit in missing for name in _owed(setup, unit)}
    return setup.engine.passes([name for name in setup.engine.candidates if name in owed])


def share_images(setup: Setup, missing: Sequence[Unit]) -> int:
    """Images that this process's own share still has to decode, once for each pass."""
    passes = [{candidate.name for candidate in each} for each in owed_passes(setup, missing)]
    owed = {(unit.folder, unit.shard): set(_owed(setup, unit)) for unit in missing}
    share = shares(setup.units, setup.process.world_size)[setup.process.rank]
    return sum(
        unit.shard.images * sum(not names.isdisjoint(owed.get((unit.folder, unit.shard), ())) for names in passes)
        for unit in share
    )


def embed(
    setup: Setup,
    on_images: Callable[[int], None] = lambda images: None,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Embedding:
    """Publish every missing part: this process's share first, then whatever the others have not published yet.

    A shard that cannot be read costs the others nothing: its error stands in `failures` afterwards. Raises
    `IncompleteError` for a store that cannot take the parts or a batch that memory does not hold, and `UserError` if
    another process of the same run is an unlike machine.
    """
    done = Embedding()
    for recipe in {each.id: each for unit in setup.units for each in unit.recipes.values()}.values():
        if setup.store.parts(recipe.id):
            with suppress(IncompleteError):  # a store that is only read
                setup.store.publish_recipe(recipe)  # a lost recipe.json hides whole parts from every other machine
    missing = missing_units(setup)
    if not missing or not (engine := setup.engine):
        return done
    prepare_store(setup, missing)
    check_prompts(setup)
    attempts = Attempts(setup.store.folder)
    attempts.tidy()
    deadly: dict[str, Unit] = {}
    try:
        _join_run(setup, attempts)
        with fixed_numerics(engine.device), launching(engine) as launch:
            for candidates in owed_passes(setup, missing):
                on_stage(f"loading {', '.join(candidate.name for candidate in candidates)}")
                towers = load_towers(engine, candidates, launch)
                on_stage("")
                loop = make_loop(setup, engine, towers, attempts, launch, done.seconds, on_images)
                order = work_order(setup.units, setup.process.rank, setup.process.world_size)
                loop.run(attempts.in_good_order(order, partial(_owes, setup, names=[*towers]), on_stage))
                known = set(map(str, done.failures))
                done.failures += [each for each in loop.failures if str(each) not in known]
                deadly |= {unit.id: unit for unit in attempts.deadly}
                del loop, towers
                free_memory()  # the next towers, or the process for a deadly unit, need the room
        for unit in deadly.values():
            on_stage(f"{unit.folder.name}/{unit.shard.name}, which killed processes, in one of its own")
            if attempts.may_try_alone(unit, partial(is_missing, setup)):
                done.failures += _embed_alone(setup, unit, attempts)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        # The frames and their tensors go with the first error.
        raise IncompleteError(
            f"The memory of {engine.device} does not hold a batch of {engine.batch_size}: {str(error)[:100]}",
            fix=f"Free it, or --batch-size {max(1, engine.batch_size // 2)}, a recipe that embeds everything anew.",
        ) from None
    finally:
        attempts.end_all(closed=True)
    done.failures.sort(key=lambda each: -each.exit_code)
    return done


def make_loop(
    setup: Setup,
    engine: Engine,
    towers: Mapping[str, ImageTower],
    attempts: Attempts,
    launch: Launch,
    seconds: StageSeconds | None = None,
    on_images: Callable[[int], None] = lambda images: None,
) -> EmbeddingLoop:
    """The inner loop with `towers` by backbone; its time is added to `seconds`."""
    sides = sorted({tower.side for tower in towers.values()})
    decoding_threads = max(1, engine.cores // engine.workers)
    return EmbeddingLoop(
        towers,
        make_decoder=partial(make_decoder, engine.decoder, sides, engine.batch_size, engine.device, decoding_threads),
        store=setup.store,
        attempts=attempts,
        batch_size=engine.batch_size,
        workers=engine.workers,
        storage=torch.float32 if engine.precision == "fp32" else torch.float16,
        device=engine.device,
        opening=SHARDS_OPENING_ON_GPU if engine.on_gpu else 1,
        launch=launch,
        seconds=seconds or StageSeconds(),
        on_images=on_images,
    )


def load_towers(engine: Engine, candidates: Sequence[Candidate], launch: Launch) -> dict[str, ImageTower]:
    """Their towers by backbone.

    On a GPU, and compiled, each has embedded a batch: a tower that does not fit or cannot be compiled fails here.
    """
    load = partial(load_image_tower, precision=engine.precision, device=engine.device, compiled=engine.compiled)
    # A tower that is converted takes its room in 32 bits for a while, on a GPU all of it.
    at_once = 1 if engine.on_gpu else min(2, engine.cores)
    with threads(at_once, "load", fix_numerics, (engine.device,)) as pool:
        loaded = pool.map(load, [c.backbone for c in candidates], [c.weights for c in candidates])
        towers = {c.name: tower for c, tower in zip(candidates, loaded, strict=True)}

    def embed_nothing(tower: ImageTower) -> object:
        shape = (engine.batch_size, 3, tower.side, tower.side)
        return tower(torch.zeros(shape, dtype=torch.uint8, device=engine.device))

    if engine.compiled or engine.on_gpu:
        launch(lambda: [embed_nothing(tower) for tower in towers.values()])
    return towers


@contextmanager
def launching(engine: Engine) -> Iterator[Launch]:
    """The way in which work is handed to the engine's device."""
    if not engine.on_gpu:
        yield lambda embed: embed()
        return
    pool = ThreadPoolExecutor(1, "gpu", fix_numerics, (engine.device,))
    try:
        yield lambda embed: pool.submit(embed).result()
    finally:
        pool.shutdown(wait=False)


def prepare_store(setup: Setup, missing: Sequence[Unit]) -> None:
    """Find a store that cannot take the parts before any model is loaded. Raises `IncompleteError`."""
    engine = setup.engine
    assert engine, "only a process that embeds prepares the store"
    number = 4 if engine.precision == "fp32" else 2
    row = {name: embedding_dim(candidate.backbone) * number + 4 for name, candidate in engine.candidates.items()}
    parts = size = 0
    for unit in missing:
        for name in _owed(setup, unit):
            parts += 1
            size += unit.shard.images * row[name]
    setup.store.prepare(parts, size, tidy=setup.process.reports)


def _owed(setup: Setup, unit: Unit) -> list[str]:
    """The backbones whose part of the unit is not listed."""
    return [name for name, recipe in unit.recipes.items() if unit.part not in setup.store.listed(recipe.id)]


def _owes(setup: Setup, unit: Unit, names: Sequence[str]) -> bool:
    """Whether the unit lacks a part by any backbone of `names`."""
    return any(not setup.store.has(unit.recipes[name].id, unit.part) for name in names if name in unit.recipes)


def _join_run(setup: Setup, attempts: Attempts) -> None:
    """Refuse a run of unlike machines. Processes of one run share targets, backbones and their number."""
    assert setup.engine
    process = setup.process
    if process.world_size == 1:
        return
    targets = [[target.name, *target.domains] for target in setup.targets]
    # Of several weights that one run embeds with, each is a run of its own: processes need not be at the same.
    given = {name: str(each.path) for name, each in setup.weights.items()}
    run = digest(canonical_json([process.world_size, targets, setup.backbones, given]))
    facts = {name: candidate.recipe.to_document() for name, candidate in setup.engine.candidates.items()}
    attempts.join(run, process.rank, facts)


def _embed_alone(setup: Setup, unit: Unit, attempts: Attempts) -> list[FastclipError]:
    """Embed a unit that processes died of in a process of its own. If that dies too, nobody tries it again.

    Returns the error that the process ended with, if it did.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_embed_unit, args=(theirs,))
    attempts.begin(unit)  # others keep away from now on, not only when the process is ready
    try:
        child.start()
        theirs.close()
        with suppress(BrokenPipeError):  # it died before it asked; its exit code says how
            ours.send(replace(setup, units=(unit,), targets=()))
        child.join()
        code = child.exitcode or 0
        if code < 0 and -code not in SIGNALS and is_missing(setup, unit):
            attempts.give_up(unit, f"ended by {signal.Signals(-code).name}")
    finally:
        if child.pid:
            child.kill()
        attempts.end_all()
    with suppress(EOFError, ConnectionError):
        if ours.poll():
            return [ours.recv()]
    return [IncompleteError(f"{unit.shard.name} was not embedded.", fix=GO_ON)] if code > 0 else []


def _embed_unit(pipe: Connection) -> None:
    """The whole life of a process that was started for one unit. Its setup comes through the pipe, its error goes back.

    The setup opens the weights again, and may find others.
    """
    end_with_parent()
    try:
        setup: Setup = pipe.recv()
        (unit,) = setup.units
        engine = setup.engine
        assert engine
        attempts = Attempts(setup.store.folder)
        with fixed_numerics(engine.device), launching(engine) as launch:
            owed = [c for c in engine.candidates.values() if _owes(setup, unit, [c.name])]
            loop = make_loop(setup, engine, load_towers(engine, owed, launch), attempts, launch)
            loop.run([unit])
        if loop.failures:
            raise loop.failures[0]
    except FastclipError as error:
        pipe.send(error)
        raise SystemExit(error.exit_code) from None
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        pipe.send(IncompleteError(f"The memory does not hold a batch: {error}", fix=GO_ON))
        raise SystemExit(EXIT_INCOMPLETE) from None
