"""Text that every tokenizer and every JSON encoder accepts."""

from __future__ import annotations


def replace_surrogates(text: str) -> str:
    r"""Return the text with lone surrogates replaced by U+FFFD.

    Lone surrogates come from decoding errors in the caller's data; no tokenizer accepts them.
    Surrogate pairs are joined. Every other text is returned unchanged.

    >>> replace_surrogates("a\ud800b") == "a\ufffdb"
    True
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
