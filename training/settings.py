"""The configuration file of the pipeline, checked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rerank_plugins.errors import ConfigurationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT: Final = Path(__file__).with_name("config.toml")

Kind = Literal["window", "passage", "sentence", "faq", "question", "paragraph", "phrase"]
"""Of a list: what its query is and what its candidates are; see docs/training.md."""

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Table):
    """What is taken of one file of training groups.

    Attributes:
        passages: Most passages with all their questions; the others are left out.
        held_out: Questions for validation; nothing is trained on their passages.
        lists: How many lists of each kind are made of its questions or passages.
    """

    passages: Positive
    held_out: Count
    lists: dict[Kind, Count]


class Prepare(_Table):
    """How texts are cut.

    Attributes:
        window_words: Most words of a window.
        overlap_words: Words that a window shares with the one before.
        windows: Most windows of a passage.
        passage_words: Longer passages are not used whole.
        sentence_words: Fewest and most words of a sentence that is used.
        sentences: Most sentences of a passage.
    """

    window_words: Positive
    overlap_words: Count
    windows: Positive
    passage_words: Positive
    sentence_words: tuple[Positive, Positive]
    sentences: Positive


class Mine(_Table):
    """How candidates are found.

    Attributes:
        size: Candidates of a list.
        depth: Hard candidates come from so many of the bi-encoder's best.
        skew: Exponent of the draw from those: above 1, the first ones are drawn more often.
        lexical_depth: And from so many of BM25's best.
        hard: Of the bi-encoder, in a list.
        lexical: Of BM25, in a list.
        given: Negatives that come with the question, or of the same passages' neighbours.
        keywords: Share of questions that become keywords.
        casual: Share that lose capitals and the question mark.
        plain: Share of lists of phrases whose texts lose capitals and punctuation.
        unseen: Share of lists of earlier questions that do not have the question itself.
        answer_words: Fewest and most words of an answer below an earlier question.
    """

    size: Annotated[int, Field(ge=2)]
    depth: Positive
    skew: Annotated[float, Field(gt=0)]
    lexical_depth: Positive
    hard: Count
    lexical: Count
    given: Count
    keywords: Share
    casual: Share
    plain: Share
    unseen: Share
    answer_words: tuple[Positive, Positive]


class Train(_Table):
    """The optimisation.

    Attributes:
        lists: Lists of a step.
        group: Lists of a micro-batch, whose pairs are computed together.
        max_length: Most tokens of a pair.
        learning_rate: After warm-up, until the decay.
        warmup: Steps.
        weight_decay: Of matrices.
        clip: Largest norm of the gradient.
        average: Decay of the exponential average of the weights.
        temperature: Of the bi-encoder's cosines as targets.
        label_share: Share of the label in the target, where there is one.
        again: Weight of a list without its best candidates.
        again_without: Up to so many of the best are left out, one more each time.
        pointwise: Weight of the binary cross-entropy, which keeps the scores' level.
        validate_every: Steps.
        save_every_s: Seconds between checkpoints.
    """

    lists: Positive
    group: Positive
    max_length: Annotated[int, Field(ge=16, le=512)]
    learning_rate: Annotated[float, Field(gt=0)]
    warmup: Count
    weight_decay: Annotated[float, Field(ge=0)]
    clip: Annotated[float, Field(gt=0)]
    average: Annotated[float, Field(ge=0, lt=1)]
    temperature: Annotated[float, Field(gt=0)]
    label_share: Share
    again: Annotated[float, Field(ge=0)]
    again_without: Count
    pointwise: Annotated[float, Field(ge=0)]
    validate_every: Positive
    save_every_s: Annotated[float, Field(gt=0)]


class Export(_Table):
    """What of the trained weights goes into the model.

    Attributes:
        start: Share of the weights that training began with. What they knew and training
            forgot comes back, and most of what it learned stays (Wortsman et al., 2022).
    """

    start: Share


class Settings(_Table):
    """Everything that decides what the pipeline makes, besides its data and its code.

    Attributes:
        seed: Of every choice.
        prepare: How texts are cut.
        mine: How candidates are found.
        train: The optimisation.
        export: What of it goes into the model.
        sources: For each file of groups, by its name without endings.
    """

    seed: Count
    prepare: Prepare
    mine: Mine
    train: Train
    export: Export
    sources: dict[str, Source]


def read_settings(file: Path = DEFAULT) -> Settings:
    """Read a configuration file.

    Raises:
        ConfigurationError: If it is missing, is not TOML, or a value is out of range.
    """
    try:
        return Settings.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        message = f"{file} is no configuration of the training: {error}"
        raise ConfigurationError(message) from error
