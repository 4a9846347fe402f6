"""Selection of an ensemble: chosen on some images, reported on others, and on its own for the size of the luck."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float64, Int64

from fastclip.errors import UserError
from fastclip.prompts.candidates import Candidate, Candidates
from fastclip.prompts.greedy import Chooser, grow
from fastclip.prompts.hold_out import HOLD_OUTS, Fold, HoldOut, Part, find_hold_out
from fastclip.prompts.label_free import label_free_scores
from fastclip.prompts.scoring import ShardBits, Source, score_sets
from fastclip.prompts.selection import ALL, HELD_OUT, SAME, SINGLE, Selection, SelectOptions, Share
from fastclip.prompts.similarities import KEPT_BYTES, Exam, scaled
from fastclip.prompts.texts import sums_of
from fastclip.text.directions import unit_rows
from fastclip.text.vectors import TextVectors


@dataclass(frozen=True)
class Work:
    """Everything that a selection reads, and the ways to say how far it is."""

    source: Source
    candidates: Candidates
    references: Sequence[Candidate]
    vectors: TextVectors
    cores: int
    on_images: Callable[[int], object] = lambda images: None
    kept_bytes: int = KEPT_BYTES
    sums: list[Float64[np.ndarray, "classes dim"]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sums", [sums_of(c, self.source.target, self.vectors) for c in self.candidates.each])

    @property
    def keeps(self) -> bool:
        """Whether the similarities of all candidates to all images fit into memory."""
        return similarity_bytes(self.source, len(self.candidates)) <= self.kept_bytes


def similarity_bytes(source: Source, candidates: int) -> int:
    """The memory that all similarities take."""
    images = sum(each.images for each in source.target.shards)
    return 4 * images * len(source.target.manifest.classes) * candidates


def select(work: Work, options: SelectOptions) -> Selection:
    """The best ensemble by the images' labels, or without them, with the shares of right answers beside it."""
    domains = [each for each in work.source.target.domains if any(s.domain == each for s in work.source.target.shards)]
    if not options.labels:
        return _without_labels(work, options, domains)
    hold_out = find_hold_out(options.hold_out, domains, options.seed)
    exam = Exam(work.source, scaled(work.sums), hold_out, work.cores, work.keeps, work.on_images)
    images = exam.images()
    fold_choosers = [_chooser(fold.chooses, images, options) for fold in hold_out.folds]
    final = _chooser(hold_out.final, images, options)
    grow([*fold_choosers, final], exam.count)
    if not all(each.chosen for each in (*fold_choosers, final)):
        raise UserError(
            f"{work.source.target.name} has too few readable images to hold some out.",
            fix=f"--hold-out {' | '.join(HOLD_OUTS)}, or --without-labels",
        )
    chosen_by_fold = tuple(tuple(each.chosen) for each in fold_choosers)
    found, rows = _scored(work, [tuple(final.chosen), *chosen_by_fold, *(each[:1] for each in chosen_by_fold)])
    reported = tuple(part for fold in hold_out.folds for part in fold.reported)
    asked = {each: dict.fromkeys(reported, rows[each]) for each in _fixed(work)}
    asked[SINGLE] = _by_part(hold_out.folds, [rows[each[:1]] for each in chosen_by_fold])
    asked[HELD_OUT] = _by_part(hold_out.folds, [rows[each] for each in chosen_by_fold])
    asked[SAME] = dict.fromkeys(hold_out.final, rows[tuple(final.chosen)])
    answers = _answers(found, hold_out)
    columns = {column: _shares(answers, domains, parts) for column, parts in asked.items()}
    base = _shares(answers, domains, dict.fromkeys(hold_out.final, rows[ALL]))
    return _selection(work, options, tuple(final.chosen), chosen_by_fold, columns, base, found)


def _chooser(parts: Sequence[Part], images: Mapping[Part, int], options: SelectOptions) -> Chooser:
    return Chooser({part: images[part] for part in parts}, options.most)


def _without_labels(work: Work, options: SelectOptions, domains: Sequence[str]) -> Selection:
    scores = label_free_scores(work.source, np.stack([*map(unit_rows, work.sums)]), work.cores)
    chosen = tuple(sorted(range(len(scores)), key=lambda row: (-scores[row], row))[: options.most])
    found, rows = _scored(work, [chosen])
    whole = HoldOut("domains", 0, (), tuple(Part(domain, 0) for domain in domains))
    asked = {**{each: rows[each] for each in _fixed(work)}, SAME: rows[chosen]}
    answers = _answers(found, whole)
    columns = {column: _shares(answers, domains, dict.fromkeys(whole.final, row)) for column, row in asked.items()}
    return _selection(work, options, chosen, (), columns, columns[ALL], found)


def _selection(
    work: Work,
    options: SelectOptions,
    chosen: tuple[int, ...],
    chosen_by_fold: tuple[tuple[int, ...], ...],
    columns: Mapping[str, Mapping[str, Share]],
    all_on_same: Mapping[str, Share],
    found: Sequence[ShardBits],
) -> Selection:
    manifest = work.source.target.manifest
    rejected = sum(each.unreadable for each in manifest.domains if each.name in all_on_same)
    return Selection(
        source=work.source,
        candidates=work.candidates,
        options=options,
        chosen=chosen,
        chosen_by_fold=chosen_by_fold,
        columns=columns,
        all_on_same=all_on_same,
        selected_on=tuple(all_on_same),
        unreadable=rejected + sum(each.unreadable for each in found),
    )


def _fixed(work: Work) -> list[str]:
    """The columns that nothing was chosen for."""
    return [*(each.name for each in work.references), ALL]


def _scored(
    work: Work, ensembles: Sequence[tuple[int, ...]]
) -> tuple[list[ShardBits], dict[str | tuple[int, ...], int]]:
    """Exact answers of the references, of all candidates together and of ensembles, and the row of each in them."""
    target = work.source.target
    sums = {each.name: sums_of(each, target, work.vectors) for each in work.references}
    sums[ALL] = np.sum(work.sums, axis=0)
    rows: dict[str | tuple[int, ...], int] = {name: row for row, name in enumerate(sums)}
    every = list(sums.values())
    for ensemble in dict.fromkeys(ensembles):
        rows[ensemble] = len(every)
        every.append(np.sum([work.sums[row] for row in ensemble], axis=0))
    prototypes = np.stack([*map(unit_rows, every)])
    return score_sets(work.source, prototypes, work.cores, work.on_images), rows


def _by_part(folds: Sequence[Fold], rows: Sequence[int]) -> dict[Part, int]:
    return {part: row for fold, row in zip(folds, rows, strict=True) for part in fold.reported}


@dataclass(frozen=True)
class _Answers:
    """The answers for one shard by row, and the number of each image's part in its domain."""

    domain: str
    right: Bool[np.ndarray, "images rows"]
    numbers: Int64[np.ndarray, " images"]


def _answers(found: Sequence[ShardBits], hold_out: HoldOut) -> list[_Answers]:
    return [_Answers(each.domain, each.right(), hold_out.numbers(each.digests)) for each in found]


def _shares(found: Sequence[_Answers], domains: Sequence[str], asked: Mapping[Part, int]) -> dict[str, Share]:
    """By domain, the right answers in the parts that are asked about, each by the row of its own ensemble."""
    right, images = dict.fromkeys(domains, 0), dict.fromkeys(domains, 0)
    for shard in found:
        for part, row in asked.items():
            if part.domain == shard.domain:
                some = shard.right[shard.numbers == part.number, row]
                right[part.domain] += int(some.sum())
                images[part.domain] += len(some)
    return {domain: Share(right[domain], images[domain]) for domain in domains}
