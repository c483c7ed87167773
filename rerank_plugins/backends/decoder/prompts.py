"""Which prompt a decoder reads: from its chat template, from its family, or none."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from tokenizers import Tokenizer

from rerank_plugins.backends._families import BOS, Prompt
from rerank_plugins.backends.decoder.templates import PartsTemplate, TextTemplate
from rerank_plugins.backends.decoder.tokens import Ids, Template
from rerank_plugins.backends.torch.pairs import PairTemplate
from rerank_plugins.errors import ModelLoadError

_QUERY: Final = "QxqueryxQ"
_DOCUMENT: Final = "DxdocumentxD"
_PROBE: Final = ("  what\n", " a \n\n b  ")


def chat_template(
    tokenizer: Any,  # noqa: ANN401  (one of many tokenizer classes)
    rust: Tokenizer,
    model: str,
    prompt: str | None,
    options: dict[str, Any],
) -> Template:
    """Return a chat template with the roles ``query`` and ``document`` as a prompt.

    Args:
        tokenizer: The transformers tokenizer that has the chat template.
        rust: The private Rust tokenizer.
        model: Name of the model, for messages.
        prompt: Content of the role ``system``; None leaves it to the template.
        options: Keyword arguments of ``apply_chat_template``.

    Raises:
        ModelLoadError: If the template does not put both texts unchanged into its text.
    """

    def render(query: str, document: str) -> str:
        messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
        if prompt:
            messages.insert(0, {"role": "system", "content": prompt})
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, **options)
        text.encode()  # no tokenizer reads lone surrogates
        return text

    try:
        before, found, rest = render(_QUERY, _DOCUMENT).partition(_QUERY)
        between, also, after = rest.partition(_DOCUMENT)
        right = (
            found
            and also
            and render(*_PROBE) == before.join(["", _PROBE[0] + between + _PROBE[1] + after])
        )
    except Exception as error:
        message = f"the chat template of {model!r} cannot be used: {error}"
        raise ModelLoadError(message) from error
    if not right:
        message = (
            f"the chat template of {model!r} does not put a message of the role query and one of "
            'the role document unchanged, in this order, into a prompt. Use backend="sbert".'
        )
        raise ModelLoadError(message)
    return TextTemplate(rust, before, between, after)


def family_template(tokenizer: Any, rust: Tokenizer, prompt: Prompt) -> Template:  # noqa: ANN401
    """Return a family's prompt for a tokenizer."""
    if prompt.whole:
        texts = ("".join(part) for part in (prompt.before, prompt.between, prompt.after))
        return TextTemplate(rust, *texts)

    def ids(parts: tuple[str, ...]) -> Ids:
        found: list[int] = []
        for part in parts:
            if part != BOS:
                found += rust.encode(part, add_special_tokens=False).ids
            elif tokenizer.bos_token_id not in (None, tokenizer.pad_token_id):
                found.append(tokenizer.bos_token_id)
        return np.asarray(found, dtype=np.int32)

    return PartsTemplate(
        rust,
        before=ids(prompt.before[:-1]),
        query=prompt.before[-1],
        between=ids(prompt.between[:-1]),
        document=prompt.between[-1],
        after=ids(prompt.after),
    )


def plain_template(rust: Tokenizer, model: str) -> Template:
    """Return how the tokenizer itself joins two texts, for models without a prompt.

    Raises:
        ModelLoadError: If it does not.
    """
    pair = PairTemplate.of(rust, model)
    return PartsTemplate(rust, pair.prefix.ids, "", pair.middle.ids, "", pair.suffix.ids)
