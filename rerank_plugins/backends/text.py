"""Making any Python string readable by a tokenizer."""

from __future__ import annotations


def replace_surrogates(text: str) -> str:
    r"""Return the text, with lone surrogates replaced by U+FFFD.

    Lone surrogates come from broken decoding upstream; no tokenizer can read them. Halves
    that belong together are joined. Every other text is returned unchanged.

    >>> replace_surrogates("a\ud800b") == "a\ufffdb"
    True
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
