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

FIXED_ALPHA = 0.5

SYMBOLS = {"strength": "λ", "alpha": "α", "beta": "β", "learning_rate": "lr"}
"""Settings as tables show them; others are shown by their names."""


def labels_notes(evaluation: Evaluation) -> list[str]:
    """A line for all that saw labels or the tested images, and for how its settings were chosen."""
    heads = evaluation.heads
    labelled = [each for each in heads if each.facts.images and not each.epochs]  # `training_notes` say it of those
    groups = [[each for each in labelled if each.is_backbone == trained] for trained in (True, False)]
    lines = [_labels_line(each) for each in groups if each]
    if without := list(dict.fromkeys(method_of(each) for each in heads if not each.facts.images)):
        lines.append(f"{' and '.join(without)}: fitted without labels.")
    if any(each.transductive for each in heads):
        lines.append("Adaptation saw the target's images, without their labels (transductive).")
    if any("held_out" in each.facts.figures and not each.epochs for each in heads):
        lines.append("Settings were chosen on held-out training images.")
    lines += _alpha_lines(evaluation)
    lines += _training_lines(evaluation)
    if any(each.facts.method == "tip" for each in heads):
        lines.append("tip: Tip-Adapter with one view of each training image.")
    again = {
        head.facts.method if head.is_backbone else head.name: domains
        for head in heads
        if (domains := trained_and_tested(evaluation, head))
    }
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
    if any(each.facts.shots is not None for each in heads):
        lines.append("±: the sample standard deviation over the seeds.")
    shown = fits_shown(evaluation)
    if shown:
        families = heads_beside_zero_shot(evaluation)
        prompts = next((tests[0].pair.b.prompts for tests in families.values()), "")
        lines.append(f"gained, lost: images that only the head, only zero-shot classifies correctly ({prompts}).")
        lines += [f"p: McNemar's exact test, Holm's correction. {name}." for name in families]
    if len(shown) < len(heads):
        lines.append(f"--json FILE keeps the settings and tests of all {len(heads)} heads.")
    return [printable(line) for line in lines]


def fits_shown(evaluation: Evaluation) -> list[UsedHead]:
    """The heads whose settings and tests are printed: all if they are few.

    Of many weights on a line, those at α 0.5 and at its end: nobody has to choose them by these numbers.
    """
    heads = list(evaluation.heads)
    fixed = [each for each in heads if each.is_backbone and each.facts.settings.get("alpha") in (FIXED_ALPHA, 1.0)]
    few = (each for each in (heads, fixed) if 0 < sum(len(head.domains) for head in each) <= MOST_ROWS)
    return next(few, [])


def weights_lines(evaluation: Evaluation) -> list[str]:
    """A line with the digests of the weights that were fine-tuned, as far as their rows are shown one by one."""
    found = dict.fromkeys(
        (each.name, each.sha256[:12]) for each in fits_shown(evaluation) if each.is_backbone and not each.epochs
    )
    return [f"{'; '.join(f'{name}: weights {sha256}' for name, sha256 in found)}."] if found else []


def _alpha_lines(evaluation: Evaluation) -> list[str]:
    """A warning below a curve, and for weights the α that its authors fixed before they saw any."""
    of_weights = {each.facts.settings["alpha"] for each in evaluation.heads
                  if each.is_backbone and "alpha" in each.facts.settings}  # fmt: skip
    fixed = "α 0.5 is WiSE-FT's fixed choice. " if FIXED_ALPHA in of_weights else ""
    if of_weights - {FIXED_ALPHA, 1.0}:
        return [f"{fixed}The {'other ' * bool(fixed)}rows of α show the tested images: choose none by them."]
    if any(cell.head.endswith("α 1.0") for cell in evaluation.cells) and not of_weights:
        return ["The rows of α show the tested images: choose none by them."]
    return [fixed.rstrip()] if fixed else []


def _training_lines(evaluation: Evaluation) -> list[str]:
    """A line for weights of which the test has something other than their training, or that the test has chosen."""
    lines = {}
    tested, used = next(iter(evaluation.prompts.items()), ("", None))
    for head in filter(lambda each: each.is_backbone, evaluation.heads):
        facts = head.facts
        if used and facts.templates != used.identity:
            of = f"{facts.method} was trained with the prompts {facts.prompts}"
            lines[f"{of}, and is tested with {tested}, whose prompts are others."] = True
        # Of a fine-tuning with its epochs, `training_notes` says it.
        if not head.epochs and (training := facts.recipe.training) and training.selected.startswith("the test domain"):
            lines[f"{facts.method}: its epoch was chosen by {training.selected}: that is no test of new images."] = True
    return list(lines)


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
    learned = "Weights were fine-tuned" if heads[0].is_backbone else "Heads were fitted"
    return f"{learned} with labels of {images} images ({of}), so that their rows are not zero-shot."


def _trained_on(head: UsedHead) -> str:
    return " + ".join(f"{each.dataset}/{each.domain}" for each in head.facts.training)
