"""The things that a prompt names, for grounders that look for them: by a rule, or by asking a model.

The rule knows no grammar, only lists of the words between things (:mod:`srum_plugins.phrase_words`). A text is cut into
runs of words: at punctuation, conjunctions, prepositions, pronouns, verbs of being and a list of common verbs; and
before each article or number. After a verb of being all words up to the next cut describe, and name nothing. What is
left of a run, without adverbs and verbs at its end, is a phrase: a noun with its adjectives.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from srum_plugins.contracts import Answer, ModelAdapter, Question
from srum_plugins.errors import ContractError
from srum_plugins.phrase_words import (
    ALWAYS_IN_S,
    BEING,
    CONJUNCTIONS,
    DETERMINERS,
    LINKS,
    MEASURES,
    PLACES,
    PLURALS,
    QUANTITIES,
    THINGS_IN_ED,
    THINGS_IN_ING,
    THINGS_IN_LY,
    VERBS,
)
from srum_plugins.records import Failure, Prompt

ASK = "Name every thing in this text, one in a line: {text}"
"""Asked of a model without an image; ``{text}`` becomes the prompt."""


_TOKEN = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*|[^\s\w]|_")
_MARK = re.compile(r"\s*(?:[-*•]|\d+[.)])\s+")


def words(text: str) -> list[str]:
    """The words of a text in small letters and in order, without punctuation."""
    return [token for token in _TOKEN.findall(text.lower()) if _is_word(token)]


def singular(word: str) -> str:
    """The singular of a plural noun in small letters, where the rules of spelling leave no doubt; else the word."""
    if word in PLURALS:
        return PLURALS[word]
    if word in ALWAYS_IN_S or len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is", "ics", "'s")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    return word[:-2] if word.endswith(("sses", "xes", "ches", "shes", "oes")) else word[:-1]


def noun_phrases(text: str) -> tuple[str, ...]:
    """The things that a text names, in the order of their appearance, each once and in small letters: nouns with the
    adjectives before them, without articles and numbers, the noun in the singular. See the module for the rule. Every
    word is one of :func:`words`, or the singular of one."""
    found = [_phrase(run) for run in _joined([_trimmed(run) for run in _runs(text)])]
    return tuple(dict.fromkeys(phrase for phrase in found if phrase))


def prompt_phrases(prompt: Prompt) -> tuple[str, ...]:
    """The prompt's own phrases, or those that :func:`noun_phrases` finds in its text; empty where that finds none."""
    return prompt.phrases or noun_phrases(prompt.text)


def ask_phrases(texts: Sequence[str], model: ModelAdapter) -> list[tuple[str, ...] | Failure]:
    """The things that the model names for each of these texts, asked in one call, a text that comes twice once; see
    :func:`read_phrases`. The model must be able to ANSWER."""
    different = list(dict.fromkeys(texts))
    answers = model.answer([Question(None, ASK.replace("{text}", text)) for text in different])
    if len(answers) != len(different):
        raise ContractError(f"{type(model).__name__} answered {len(answers)} of {len(different)} questions")
    read = {text: read_phrases(answer, text) for text, answer in zip(different, answers, strict=True)}
    return [read[text] for text in texts]


def read_phrases(answer: Answer, text: str) -> tuple[str, ...] | Failure:
    """The phrases of an answer to :data:`ASK`, one a line, in order and each once. Marks of a list and articles and
    numbers before a phrase are left out, nouns are put in the singular. A Failure if the answer was cut off, is empty,
    or has a line that lists several things, or none, or has words that are not the text's."""
    if answer.truncated:
        return Failure("truncated answer", f"cut off: {answer.text[:80]!r}")
    known = {form for word in words(text) for form in (word, singular(word))}
    phrases: list[str] = []
    for line in answer.text.splitlines():
        if not line.strip():
            continue
        phrase = _bare(_MARK.sub("", line, count=1))
        if not phrase or set(line) & {",", ";"}:
            return Failure("malformed phrases", f"not one thing in a line: {line.strip()[:80]!r}")
        if strange := [word for word in phrase if word not in known]:
            return Failure("malformed phrases", f"{strange[0]!r} of {line.strip()[:80]!r} is no word of the text")
        phrases.append(" ".join(phrase))
    return tuple(dict.fromkeys(phrases)) if phrases else Failure("malformed phrases", "the answer is empty")


def meant(label: str, phrases: Iterable[str]) -> str | None:
    """The phrase that a label stands for: the first that has the same words, but for articles, capitals and the number
    of its noun; None if there is none."""
    wanted = _bare(label)
    return next((phrase for phrase in phrases if wanted and _bare(phrase) == wanted), None)


def _bare(line: str) -> list[str]:
    """The words of a line without articles and numbers before them, the last in the singular."""
    found = words(line)
    while found and _opens(found[0]):
        del found[0]
    return [*found[:-1], singular(found[-1])] if found else []


@dataclass(frozen=True)
class _Run:
    """Words with nothing between them. ``opened`` by an article or a number; ``end`` is what came after."""

    words: tuple[str, ...]
    opened: bool
    end: str


def _runs(text: str) -> list[_Run]:
    """A text in runs, with empty ones where two cuts meet."""
    runs: list[_Run] = []
    run: list[str] = []
    opened, describing, before = False, False, ""
    for token in [*_TOKEN.findall(text.lower()), "."]:
        if _opens(token):
            # A word right before an article is a verb: "the hammer struck the nail", "and holding a cup".
            kept = run[:-1] if len(run) > 1 or not opened else run
            runs.append(_Run(tuple(kept), opened, token))
            run, opened, describing = [], True, False
        elif token in BEING or token in CONJUNCTIONS or token in LINKS or not _is_word(token):
            runs.append(_Run(tuple(run), opened, token))
            describing = (token in BEING and before != "there") or (token in CONJUNCTIONS and describing)
            run, opened = [], False
        elif token in VERBS and (run or not opened):
            runs.append(_Run(tuple(run), opened, token))
            run, opened, describing = [], False, False
        elif not describing:
            run.append(token)
        before = token
    return runs


def _trimmed(run: _Run) -> _Run:
    """Without verbs before its noun, verbs, adverbs and places ("left of") after it, and what names no thing."""
    kept = list(run.words)
    if kept and not run.opened and _names_nothing(kept[0]):
        del kept[0]
    while len(kept) > 1 and (_names_nothing(kept[-1]) or (run.end == "of" and kept[-1] in PLACES)):
        del kept[-1]
    nothing = all(word in PLACES for word in kept) or (run.end == "of" and kept[-1] in MEASURES)
    return _Run(() if nothing else tuple(kept), run.opened, run.end)


def _joined(runs: Sequence[_Run]) -> list[_Run]:
    """One word between an article and a comma, and more without an article after it, are one run: "the small, delicate
    butterflies"."""
    joined: list[_Run] = []
    for run in runs:
        last = joined[-1] if joined else None
        if last and last.opened and last.end == "," and len(last.words) == 1 < len(run.words) and not run.opened:
            joined[-1] = _Run((*last.words, *run.words), True, run.end)
        else:
            joined.append(run)
    return joined


def _phrase(run: _Run) -> str:
    return " ".join([*run.words[:-1], singular(run.words[-1])]) if run.words else ""


def _is_word(token: str) -> bool:
    return token[0].isalnum()


def _opens(token: str) -> bool:
    return token in DETERMINERS or token in QUANTITIES or token.isnumeric()


def _names_nothing(word: str) -> bool:
    """Whether a word ends as verbs and adverbs do, and is no thing that ends so."""
    return (
        (len(word) > 4 and word.endswith("ing") and word not in THINGS_IN_ING)
        or (len(word) > 3 and word.endswith("ed") and word not in THINGS_IN_ED)
        or (len(word) > 4 and word.endswith("ly") and not word.endswith("fly") and word not in THINGS_IN_LY)
    )
