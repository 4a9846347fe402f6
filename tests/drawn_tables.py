"""Results of drawn counts, made of records alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from helpers import recipe

from fastclip.heads.facts import HeadFacts
from fastclip.results.cells import Cell, Column, DatasetFacts, Evaluation, UsedHead, UsedPrompts, UsedRecipe
from fastclip.store.training import TrainingSet

HOSTILE = (
    "<script>alert(1)</script>",
    '"onload="x',
    '=HYPERLINK("http://x","y")',
    r"\input{x}",
    "a|b",
    "שלום",
    "two\nlines",
    "$x_1^2$ & 50 % #1 ~ {y} *z* [u](v) `w` a--b",
    "-1+1",
    "[10pt] wide",
    "* starred",
    "n" * 300,
)
"""Names that are something else in one of the formats."""


def drawn_result(
    counts: Mapping[tuple[str, str, str], tuple[int, int]],
    *,
    dataset: str = "letters",
    random: Sequence[str] = (),
    policy: str = "stop",
) -> Evaluation:
    """A result of `counts`: (domain, backbone, way) → (right, images). A way that begins with `fitted` is a head."""
    columns = {key: _column(*key[1:]) for key in counts}
    domains = list(dict.fromkeys(domain for domain, _, _ in counts))
    recipes = {
        backbone: recipe(backbone=backbone, weights="drawn" if backbone in random else "ab" * 32)
        for backbone in dict.fromkeys(backbone for _, backbone, _ in counts)
    }
    heads = {
        column: tuple(each[0] for each in counts if columns[each] == column)
        for column in columns.values() if not column.prompts
    }  # fmt: skip
    return Evaluation(
        unreadable_policy=policy,
        datasets=(
            DatasetFacts(
                name=dataset, title=dataset, variant=None, protocol="full", manifest_sha256="0" * 64,
                names={"a": "a", "b": "b"}, fingerprints=dict.fromkeys(domains, "1" * 64), has_variants=False,
            ),
        ),
        recipes=tuple(
            UsedRecipe(dataset=dataset, backbone=name, id=each.id, recipe=each) for name, each in recipes.items()
        ),
        prompts={column.prompts: UsedPrompts(templates=("a {}.",)) for column in columns.values() if column.prompts},
        cells=tuple(
            Cell(
                dataset=dataset, domain=key[0], backbone=key[1], prompts=columns[key].prompts, head=columns[key].head,
                images=images, classified=images, top1=right, top5=images, unreadable=0, shards=1, missing_shards=0,
            )
            for key, (right, images) in counts.items()
        ),
        unreadable=(),
        heads=tuple(_head(column, dataset, found, recipes[column.backbone]) for column, found in heads.items()),
    )  # fmt: skip


def _column(backbone: str, way: str) -> Column:
    return Column(backbone, way, "") if way.startswith("fitted") else Column(backbone, prompts=way)


def _head(column: Column, dataset: str, domains: tuple[str, ...], used: object) -> UsedHead:
    facts = HeadFacts(
        method="logistic", settings={"strength": 1.0}, recipe=used, prompts=None, templates=(), classes=("a", "b"),  # type: ignore[arg-type]
        training=(TrainingSet(dataset="other", domain="photo", fingerprint="2" * 64, images=9),), images=9, seed=None,
        shots=None, split=None, duplicates=0, made_by="numpy", figures={},
    )  # fmt: skip
    return UsedHead(
        name=column.head, dataset=dataset, domains=domains, sha256="3" * 64, facts=facts, transductive=False
    )
