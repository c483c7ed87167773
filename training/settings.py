"""Configuration file of the training pipeline, validated on load."""

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

DEFAULT_CONFIG: Final = Path(__file__).with_name("config.toml")

Kind = Literal["window", "passage", "sentence", "faq", "question", "paragraph", "phrase"]
"""Kind of a training list: what its query and its candidates are; see docs/dev/training.md."""

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceSettings(_Table):
    """Use of one file of training groups.

    Attributes:
        max_passages: Maximum number of passages to keep, each with all its questions.
        held_out: Number of questions for validation; their passages are not trained on.
        lists: Number of lists of each kind to make from its questions or passages.
    """

    max_passages: Positive
    held_out: Count
    lists: dict[Kind, Count]


class PrepareSettings(_Table):
    """Chunking of passages.

    Attributes:
        window_words: Maximum number of words of a window.
        overlap_words: Number of words that a window shares with the previous one.
        max_windows: Maximum number of windows per passage.
        max_passage_words: Longer passages are never used whole.
        sentence_words: Minimum and maximum number of words of a sentence.
        max_sentences: Maximum number of sentences per passage.
    """

    window_words: Positive
    overlap_words: Count
    max_windows: Positive
    max_passage_words: Positive
    sentence_words: tuple[Positive, Positive]
    max_sentences: Positive


class MineSettings(_Table):
    """Selection of candidates and augmentation of queries.

    Attributes:
        list_size: Number of candidates per list.
        dense_depth: Hard negatives are drawn from this many of the bi-encoder's best texts.
        dense_skew: Exponent of that draw; above 1, higher ranks are drawn more often.
        dense_negatives: Number of negatives per list that the bi-encoder finds.
        lexical_depth: Lexical negatives are drawn from this many of BM25's best texts.
        lexical_negatives: Number of negatives per list that BM25 finds.
        known_negatives: Number of negatives per list that come with the question, or from the
            passages around its own.
        keyword_fraction: Fraction of questions that are reduced to keywords.
        lowercase_fraction: Fraction of questions without capitals and question mark.
        unpunctuated_fraction: Fraction of ``phrase`` lists whose candidates lose capitals and
            punctuation.
        without_self_fraction: Fraction of ``faq`` and ``question`` lists in which the question
            itself is not a candidate.
        answer_words: Minimum and maximum number of answer words in an ``faq`` candidate.
    """

    list_size: Annotated[int, Field(ge=2)]
    dense_depth: Positive
    dense_skew: Annotated[float, Field(gt=0)]
    dense_negatives: Count
    lexical_depth: Positive
    lexical_negatives: Count
    known_negatives: Count
    keyword_fraction: Fraction
    lowercase_fraction: Fraction
    unpunctuated_fraction: Fraction
    without_self_fraction: Fraction
    answer_words: tuple[Positive, Positive]


class TrainSettings(_Table):
    """Loss and optimizer.

    Attributes:
        lists_per_step: Number of lists per optimizer step.
        lists_per_micro_batch: Number of lists whose pairs are computed together.
        max_length: Maximum number of tokens of a pair.
        learning_rate: Constant learning rate after warm-up.
        warmup_steps: Number of steps over which the learning rate rises.
        weight_decay: Weight decay of matrices; biases and norms have none.
        max_grad_norm: Maximum norm of the gradient.
        ema_decay: Decay of the exponential moving average of the weights.
        temperature: Temperature of the softmax over the bi-encoder's cosines.
        label_weight: Weight of the label in the target of a labeled list.
        tail_weight: Weight of the loss of a list without its best candidates.
        tail_depth: Maximum number of best candidates to leave out, one more at a time.
        pointwise_weight: Weight of the binary cross-entropy of labeled lists.
        validate_every_steps: Number of steps between validations.
        save_every_s: Seconds between checkpoints.
    """

    lists_per_step: Positive
    lists_per_micro_batch: Positive
    max_length: Annotated[int, Field(ge=16, le=512)]
    learning_rate: Annotated[float, Field(gt=0)]
    warmup_steps: Count
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    temperature: Annotated[float, Field(gt=0)]
    label_weight: Fraction
    tail_weight: Annotated[float, Field(ge=0)]
    tail_depth: Count
    pointwise_weight: Annotated[float, Field(ge=0)]
    validate_every_steps: Positive
    save_every_s: Annotated[float, Field(gt=0)]


class ExportSettings(_Table):
    """Weights of the exported model.

    Attributes:
        initial_fraction: Fraction of the initial weights in the exported weights. The mix
            restores what training forgot and keeps most of what it learned (Wortsman et al.,
            2022).
    """

    initial_fraction: Fraction


class Settings(_Table):
    """Settings that the result depends on, apart from the data and the code.

    Attributes:
        seed: Seed of all random draws.
        prepare: Chunking of passages.
        mine: Selection of candidates and augmentation of queries.
        train: Loss and optimizer.
        export: Weights of the exported model.
        sources: Use of each file of training groups, by file name without extension.
    """

    seed: Count
    prepare: PrepareSettings
    mine: MineSettings
    train: TrainSettings
    export: ExportSettings
    sources: dict[str, SourceSettings]


def read_settings(file: Path = DEFAULT_CONFIG) -> Settings:
    """Read a configuration file.

    Raises:
        ConfigurationError: If the file is missing, is not TOML, or a value is out of range.
    """
    try:
        return Settings.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        message = f"{file} is not a valid training configuration: {error}"
        raise ConfigurationError(message) from error
