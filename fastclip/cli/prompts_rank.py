"""The run of `prompts rank`: a forecast, bars, tables and files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastclip.cli.console import counted, err, out
from fastclip.cli.prompts_texts import describe, embed_texts, open_sources, title
from fastclip.destinations import check_place
from fastclip.errors import printable
from fastclip.files import write_whole

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fastclip.evaluate.options import EvalOptions
    from fastclip.prompts.candidates import Candidates
    from fastclip.prompts.rank import Ranked, Ranking

TIED = "="


def rank_and_print(
    options: EvalOptions, candidates: Candidates, *, top: int, json: Path | None, csv: Path | None, dry_run: bool
) -> None:
    """Rank the candidates on each dataset by each backbone, print them, and write the files that are asked for."""
    from fastclip.cli.progress import progress_bar
    from fastclip.prompts.rank import rank
    from fastclip.prompts.ranking_files import ranking_csv, ranking_json

    messages, console = err(), out()
    json, csv = (Path("/dev/stdout") if str(path) == "-" else path for path in (json, csv))
    for path in filter(None, (json, csv)):
        check_place(path)
    setup, sources = open_sources(options, candidates)
    if not setup.process.reports:
        return  # of several processes the first one works
    rankings = []
    for backbone in setup.backbones:
        vectors = embed_texts(setup, backbone, candidates, sources[backbone], messages, dry_run=dry_run)
        if dry_run:
            continue
        for source in sources[backbone]:
            images = sum(shard.images for shard in source.target.shards)
            with progress_bar(messages, f"ranking {source.target.name}", images) as advance:
                rankings.append(rank(source, candidates, vectors, setup.process.cores, advance))
    for place, each in enumerate(rankings):
        console.print(_table(each, top))
        for line in _notes(each, last=place == len(rankings) - 1):
            console.print(printable(line), style="dim")
    if dry_run:
        return
    if csv:
        write_whole(csv, ranking_csv(rankings).encode())
    if json:
        write_whole(json, ranking_json(rankings))


def _table(ranking: Ranking, top: int) -> RenderableType:
    from fastclip.report.style import plain_table, titled

    several = len(ranking.images) > 1
    table = plain_table("candidate", *ranking.images, *(["average"] if several else []), "")
    for each in ranking.given[:top]:
        table.add_row(each.candidate.name, *_numbers(each, ranking, several), TIED if each.tied else "")
    images = sum(ranking.images.values())
    return titled(title(ranking.source, f"of {images:,} images"), table)


def _numbers(each: Ranked, ranking: Ranking, several: bool) -> Iterator[str]:
    for domain, images in ranking.images.items():
        yield f"{100 * each.right[domain] / images:.2f}"
    if several:
        yield f"{100 * float(each.average):.2f}"


def _notes(ranking: Ranking, *, last: bool) -> Iterator[str]:
    from fastclip.prompts.rank import MOST

    given = ranking.given
    if ranking.tied > 1:
        yield (
            f"{TIED}: {ranking.tied:,} of {counted(len(given), 'candidate')} cannot be told from the best by "
            "Holm-corrected exact tests on these images."
        )
    elif len(given) > 1:
        yield f"Holm-corrected exact tests tell the best of {len(given):,} candidates from all others on these images."
    if controls := ranking.controls:
        best, top = (100 * float(each[0].average) for each in (controls, given))
        yield (
            f"{counted(len(controls), 'template')} of random words: {ranking.beat(1.0):,} of {len(given):,} candidates "
            f"beat all of them, {ranking.beat(MOST):,} beat {100 * MOST:.0f}% of them. The best of them, "
            f"{controls[0].candidate.name!r}, reaches {best:.2f}%, the best candidate {top:.2f}%."
        )
    if twice := ranking.candidates.twice:
        yield f"Given twice and counted once: {_listed(twice)}."
    if ranking.unreadable:
        yield f"{counted(ranking.unreadable, 'unreadable image')} left out of the counts."
    yield describe(ranking.source.recipe)
    if last:
        yield (
            "The order used the labels of these images: the accuracy of the best is no zero-shot result. fastclip "
            "prompts select shows how much of it is left on images that did not choose."
        )


def _listed(names: Sequence[str], most: int = 3) -> str:
    shown = "; ".join(map(repr, names[:most]))
    return shown + (f" and {len(names) - most:,} more" if len(names) > most else "")
