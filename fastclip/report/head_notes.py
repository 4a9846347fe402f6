"""The lines under a table of fitted heads: what saw labels, how settings were chosen, tests, duplicates. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from fastclip.errors import printable
from fastclip.report.numbers import NO_NUMBER
from fastclip.report.transfers import method_of
from fastclip.results.cells import Evaluation, UsedHead
from fastclip.results.comparing.columns import heads_beside_zero_shot

MOST_ROWS = 12
"""Heads and tested domains whose settings and tests are printed; beyond, the result file has them."""

SYMBOLS = {"strength": "λ", "alpha": "α", "beta": "β", "learning_rate": "lr"}
"""Settings as tables show them; others are shown by their names."""


def labels_notes(evaluation: Evaluation) -> list[str]:
    """A line for all that saw labels or the tested images, and for how its settings were chosen."""
    heads = evaluation.heads
    labelled = [each for each in heads if each.facts.images and not each.epochs]  # `training_notes` say it of those
    lines = [_labels_line(labelled)] if labelled else []
    if without := list(dict.fromkeys(method_of(each) for each in heads if not each.facts.images)):
        lines.append(f"{' and '.join(without)}: fitted without labels.")
    if any(each.transductive for each in heads):
        lines.append("Adaptation saw the target's images, without their labels (transductive).")
    if any("held_out" in each.facts.figures for each in heads):
        lines.append("Settings were chosen on held-out training images.")
    if any(cell.head.endswith("α 1.0") for cell in evaluation.cells):
        lines.append("The rows of α show the tested images: choose none by them.")
    if any(each.facts.method == "tip" for each in heads):
        lines.append("tip: Tip-Adapter with one view of each training image.")
    again = {head.name: domains for head in heads if (domains := trained_and_tested(evaluation, head))}
    lines += [
        f"{name} was trained on images of {', '.join(each)} that are tested here." for name, each in again.items()
    ]
    if count := _duplicates(heads):
        have = "tested image has" if count == 1 else "tested images have"
        lines.append(f"{count:,} {have} the bytes of a training image, and counted like any other.")
    return [printable(line) for line in lines]


def trained_and_tested(evaluation: Evaluation, head: UsedHead) -> list[str]:
    """The domains that a head saw the labels of, and whose images it was scored on; none where a split parted them."""
    if not head.facts.images or any(cell.sample for cell in evaluation.cells):
        return []
    places = {(each.dataset, each.domain) for each in head.facts.training}
    bytes_of = {each.fingerprint for each in head.facts.training}
    fingerprints = evaluation.dataset(head.dataset).fingerprints
    return [each for each in head.domains if (head.dataset, each) in places or fingerprints.get(each) in bytes_of]


def head_notes(evaluation: Evaluation) -> list[str]:
    """The lines under a table of fitted heads: what saw labels, how settings were chosen, tests, duplicates."""
    heads, lines = evaluation.heads, labels_notes(evaluation)
    if any(each.facts.split for each in heads):
        lines.append("Images that were rejected when the shards were written are in neither part.")
    if any(each.facts.seed is not None for each in heads):
        lines.append("±: the sample standard deviation over the seeds.")
    rows = sum(len(each.domains) for each in heads)
    if rows <= MOST_ROWS:
        families = heads_beside_zero_shot(evaluation)
        prompts = next((tests[0].pair.b.prompts for tests in families.values()), "")
        lines.append(f"gained, lost: images that only the head, only zero-shot classifies correctly ({prompts}).")
        lines += [f"p: McNemar's exact test, Holm's correction. {name}." for name in families]
    else:
        lines.append(f"--json FILE keeps the settings of all {len(heads)} heads.")
    return [printable(line) for line in lines]


def _duplicates(heads: Sequence[UsedHead]) -> int:
    """The tested images that share their bytes with a training image: once, however many heads tested them."""
    tested: dict[str, frozenset[tuple[str, str]]] = {}
    for each in heads:
        places = frozenset((each.dataset, domain) for domain in each.domains)
        tested[each.sha256] = tested.get(each.sha256, frozenset()) | places
    counts: dict[frozenset[tuple[str, str]], int] = {}
    for each in heads:
        places = tested[each.sha256]
        counts[places] = max(counts.get(places, 0), each.facts.duplicates)
    return sum(counts.values())


def given_head_notes(evaluation: Evaluation) -> list[str]:
    """A line for each head of a file: what it was trained on, and whether that was tested too."""
    lines = {}
    several = len({head.facts.recipe.backbone for head in evaluation.heads}) > 1
    for head in evaluation.heads:
        facts = head.facts
        seen = trained_and_tested(evaluation, head)
        again = f" It was trained on images of {', '.join(seen)} that are tested here." if seen else ""
        name = f"{facts.recipe.backbone}, {head.name}" if several else head.name
        settings = f", {settings_text(head)}" if facts.settings else ""
        lines[head.sha256, again] = (
            f"{name}: fitted with labels of {facts.images:,} images ({_trained_on(head)}){settings}.{again}"
        )
    return [printable(line) for line in lines.values()]


def settings_text(head: UsedHead) -> str:
    """`λ 0.1, α 0.5`, or a dash."""
    shown = ", ".join(f"{SYMBOLS.get(name, name)} {value:.3g}" for name, value in head.facts.settings.items())
    return shown or NO_NUMBER


def _labels_line(heads: Sequence[UsedHead]) -> str:
    counts = sorted({each.facts.images for each in heads})
    images = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    sources = list(dict.fromkeys(_trained_on(each) for each in heads))
    of = sources[0] if len(sources) == 1 else f"{len(sources)} choices of domains"
    return f"Heads were fitted with labels of {images} images ({of}), so that their rows are not zero-shot."


def _trained_on(head: UsedHead) -> str:
    return " + ".join(f"{each.dataset}/{each.domain}" for each in head.facts.training)
