"""Second step: find candidates for every query, and the bi-encoder's cosines as soft targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from rerank_plugins import BiEncoder, Reranker
from rerank_plugins.core.protocols import FloatArray
from training.answers import answering
from training.asking import Asked, ask_again, ask_of_passages, ask_sentences, ask_windows, sampled
from training.candidates import drawn
from training.packed import KINDS, Packed
from training.prepared import Parts, Prepared, Question
from training.searching import Space
from training.settings import Kind, Settings
from training.wording import Rng, without_marks
from training.writing import Writer

_LABELLED: Final = frozenset[Kind]({"window", "passage", "paragraph"})
_CUT_OUT: Final = 0.7
"""Share of paragraphs that lose the sentence that asks for them."""

Shown = Callable[[Asked, int], tuple[str, list[int]]]
"""A candidate's text, and the texts of the space whose best cosine is its own."""


class _Made(NamedTuple):
    space: Space
    asked: list[Asked]
    shown: Shown


class Miner:
    """Makes the lists of all kinds."""

    def __init__(
        self, prepared: Prepared, settings: Settings, encoder: BiEncoder, reader: Reranker
    ) -> None:
        """Embed the windows.

        Args:
            prepared: The texts.
            settings: The configuration.
            encoder: The bi-encoder whose cosines are the soft targets.
            reader: Finds the window that answers.
        """
        self._prepared = prepared
        self._settings = settings
        self._encoder = encoder
        self._reader = reader
        self._windows = self._parts(prepared.windows)

    def packed(self) -> Packed:
        """Make all lists."""
        writer = Writer(list(self._settings.sources), self._settings.train.max_length)
        for number, kind in enumerate(KINDS):
            rng = np.random.default_rng([self._settings.seed, len(KINDS), number])
            made = self._made(kind, rng)
            if made.asked:
                self._write(kind, made, rng, writer)
        return writer.packed()

    def _made(self, kind: Kind, rng: Rng) -> _Made:
        prepared, settings = self._prepared, self._settings
        if kind in ("paragraph", "phrase"):
            shown = self._without_query(rng) if kind == "paragraph" else self._plain(rng)
            return _Made(self._windows, ask_of_passages(prepared, settings, kind, rng), shown)
        questions = sampled(prepared, settings, kind, rng)
        if kind == "sentence" and questions:
            sentences = prepared.sentences.among(at for one in questions for at in one.positives)
            space = self._parts(sentences)
            return _Made(space, ask_sentences(sentences, questions, rng), _as_it_is(space))
        held_out = prepared.validation if kind in ("window", "faq") else []
        cut = len(questions)
        if kind in ("faq", "question"):
            space = self._asked_before([*questions, *held_out], kind, cut, rng)
            asked = ask_again(questions, rng, 0, unseen=settings.mine.unseen, held_out=False)
            asked += ask_again(held_out, rng, cut, unseen=0, held_out=True)
            return _Made(space, asked, _as_it_is(space))
        answers = self._answers([*questions, *held_out])
        asked = ask_windows(prepared, questions, answers[:cut], settings.mine, rng=rng)
        asked += ask_windows(
            prepared, held_out, answers[cut:], settings.mine, rng=rng, held_out=True
        )
        shown = self._whole if kind == "passage" else _as_it_is(self._windows)
        return _Made(self._windows, asked, shown)

    def _write(self, kind: Kind, made: _Made, rng: Rng, writer: Writer) -> None:
        mine = self._settings.mine
        for held_out in (False, True):
            asked = [one for one in made.asked if one.held_out is held_out]
            if not asked:
                continue
            space = made.space
            if held_out:
                space = replace(space, usable=np.ones_like(space.usable))
            vectors = self._encoder.encode_queries([one.clean for one in asked])
            nearest = space.nearest(vectors, mine.depth)
            lexical = space.lexical([one.text for one in asked], mine.lexical_depth)
            for row, one in enumerate(tqdm(asked, desc=kind, unit="list", disable=None)):
                found = drawn(one, space, nearest[row], lexical[row], settings=mine, rng=rng)
                if len(found) < mine.size:
                    continue
                shown = [made.shown(one, at) for at in found]
                cosines = [(space.vectors[parts] @ vectors[row]).max() for _, parts in shown]
                writer.add(
                    kind,
                    one.source,
                    one.text,
                    [text for text, _ in shown],
                    np.array(cosines, dtype=np.float32),
                    relevant=1 if kind in _LABELLED else 0,
                    held_out=held_out,
                )

    def _answers(self, questions: Sequence[Question], *, read: bool = True) -> list[int]:
        return answering(
            questions,
            self._prepared.windows,
            self._windows.vectors,
            self._encoder,
            self._reader if read else None,
        )

    def _parts(self, parts: Parts) -> Space:
        vectors = self._vectors(parts.texts)
        return Space(parts.texts, parts.passages, vectors, ~self._prepared.held_out[parts.passages])

    def _vectors(self, texts: list[str]) -> FloatArray:
        return self._encoder.encode_documents(texts)

    def _asked_before(
        self, questions: Sequence[Question], kind: Kind, free: int, rng: Rng
    ) -> Space:
        """Return the space of earlier questions, with their answers for the kind ``faq``."""
        texts = [one.text for one in questions]
        if kind == "faq":
            windows = self._prepared.windows.texts
            least, most = self._settings.mine.answer_words
            for at, answer in enumerate(self._answers(questions, read=False)):
                words = windows[answer].split()[: rng.integers(least, most + 1)]
                texts[at] += "\n" + " ".join(words)
        owners = np.arange(len(texts), dtype=np.int64)  # several questions of a passage may meet
        return Space(texts, owners, self._vectors(texts), owners < free)

    def _whole(self, _: Asked, window: int) -> tuple[str, list[int]]:
        """Show the whole passage of a window, if it is not too long."""
        passage = int(self._windows.owners[window])
        text = self._prepared.passages[passage]
        if len(text.split()) > self._settings.prepare.passage_words:
            return self._windows.texts[window], [window]
        return text, self._prepared.windows.of(passage)

    def _without_query(self, rng: Rng) -> Shown:
        def shown(asked: Asked, window: int) -> tuple[str, list[int]]:
            text = self._windows.texts[window]
            if window in asked.own and rng.random() < _CUT_OUT:
                text = " ".join(text.replace(asked.text, " ").split())
            return text, [window]

        return shown

    def _plain(self, rng: Rng) -> Shown:
        """Show all candidates of some queries without marks, of the others as they are."""
        plain: dict[str, bool] = {}

        def shown(asked: Asked, window: int) -> tuple[str, list[int]]:
            text = self._windows.texts[window]
            share = self._settings.mine.plain
            if plain.setdefault(asked.text, bool(rng.random() < share)):
                text = without_marks(text)
            return text, [window]

        return shown


def _as_it_is(space: Space) -> Shown:
    return lambda _, at: (space.texts[at], [at])
