"""Candidates: templates, each a prompt set of one, whole prompt sets, and templates of random words beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib.resources import files

from fastclip.data.shards.targets import Target
from fastclip.errors import UserError, printable
from fastclip.files import canonical_json, digest
from fastclip.text.prompt_sets import PromptSet, check_names
from fastclip.text.prompts import find_prompt_set

CONTROL_WORDS = 2
"""Random words of a control template."""
MOST_CONTROLS = 10_000


@dataclass(frozen=True)
class Candidate:
    """A prompt set that may be the best."""

    prompts: PromptSet
    control: bool = False
    """Whether it was drawn, to show how far random words get."""

    @property
    def name(self) -> str:
        """Of a template its text, of a whole set its name."""
        return self.prompts.name

    @property
    def identity(self) -> tuple[str, ...]:
        """Equal for equal prompts."""
        return self.prompts.identity


@dataclass(frozen=True)
class Candidates:
    """Distinct candidates in the order in which they were given, controls last."""

    each: tuple[Candidate, ...]
    twice: tuple[str, ...] = ()
    """The names of those that stood there before: each is counted once."""

    def __len__(self) -> int:
        return len(self.each)

    @property
    def given(self) -> tuple[Candidate, ...]:
        """Those that are no control."""
        return tuple(each for each in self.each if not each.control)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the prompts of all candidates but the controls."""
        return digest(canonical_json([list(each.identity) for each in self.given]))


def find_candidates(templates: Sequence[str], sets: Sequence[str], control: int = 0, seed: int = 0) -> Candidates:
    """The candidates of a command: each template of the sets `templates`, each of `sets` as a whole, and controls.

    Both are given as built-in names or files. Raises `UserError` if there is none.
    """
    found: list[Candidate] = []
    for name in templates:
        prompts = find_prompt_set(name)
        if prompts.texts:
            raise UserError(
                f"{name} holds texts of each class, which are no templates.", fix=f"--texts {name} takes it as a whole"
            )
        found += [Candidate(PromptSet(template, (template,))) for template in prompts.templates]
    wholes = [find_prompt_set(name) for name in sets]
    if same := next((each.name for place, each in enumerate(wholes) if each.name in _names(wholes[:place])), None):
        raise UserError(f"Two prompt sets are called {printable(same)}.", fix="Rename one of the files.")
    found += map(Candidate, wholes)
    if not found:
        raise UserError("There is no candidate.", fix="--templates FILE, one a line; or --templates openai80")
    if not 0 <= control <= MOST_CONTROLS:
        raise UserError(f"--control must be 0 to {MOST_CONTROLS:,}, not {control:,}.", fix="--control 100")
    found += [Candidate(PromptSet(each, (each,)), control=True) for each in control_templates(control, seed)]
    return _distinct(found)


def both(first: Candidates, second: Candidates) -> Candidates:
    """The candidates of two lists, each once."""
    return Candidates(tuple({each.identity: each for each in (*first.each, *second.each)}.values()))


def control_templates(number: int, seed: int) -> list[str]:
    """Templates that add random words to the plainest one, as WaffleCLIP does (arXiv 2306.07282).

    A seed gives the same ones on every machine, and the first of more are the same.
    """
    words = files(__package__).joinpath("words.txt").read_text("utf-8").split()

    def drawn(place: int) -> str:
        ordered = sorted(words, key=lambda word: sha256(f"{seed}\0{place}\0{word}".encode()).digest())
        return f"a photo of a {{}}, which has {' '.join(ordered[:CONTROL_WORDS])}."

    return [drawn(place) for place in range(number)]


def texts_of(candidate: Candidate, target: Target) -> list[list[str]]:
    """The prompts of every class of a dataset under a candidate. Raises `UserError` for texts that do not fit it."""
    classes = candidate.prompts.classes(target.manifest.classes, target.manifest.names)
    return [candidate.prompts.prompts(*names) for names in classes]


def check_candidates(candidates: Candidates, target: Target, card: str) -> None:
    """Raise `UserError` for candidates that no class of the dataset, or not every one, can be asked with."""
    if any(each.prompts.templates for each in candidates.each):
        check_names(target.name, target.manifest.classes, target.manifest.names, card)
    for each in candidates.each:
        each.prompts.classes(target.manifest.classes, target.manifest.names)


def _names(sets: Iterable[PromptSet]) -> set[str]:
    return {each.name for each in sets}


def _distinct(found: Sequence[Candidate]) -> Candidates:
    kept: dict[tuple[str, ...], Candidate] = {}
    twice = []
    for each in found:
        if kept.setdefault(each.identity, each) is not each and not each.control:
            twice.append(each.name)
    return Candidates(tuple(kept.values()), tuple(twice))
