"""Which texts of a space become the candidates of a query: from relevant to random."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from training.asking import Asked
from training.searching import Rows, Space
from training.settings import Mine
from training.wording import Rng


def drawn(
    asked: Asked, space: Space, nearest: Rows, lexical: Rows, *, settings: Mine, rng: Rng
) -> list[int]:
    """Draw the candidates of a query, its own first, none twice.

    Args:
        asked: The query.
        space: Where the candidates are from.
        nearest: The bi-encoder's best, best first.
        lexical: BM25's best, best first.
        settings: How many of which.
        rng: Draws.

    Returns:
        Positions in the space, ``settings.size`` of them or, in a small space, fewer.
    """
    chosen = list(asked.own[: settings.size // 2])
    used = set(asked.banned)
    used_texts = {space.texts[at] for at in chosen}

    def add(pool: Iterable[int], count: int) -> None:
        for at in pool:
            if count <= 0 or len(chosen) == settings.size:
                return
            if int(space.owners[at]) in used or space.texts[at] in used_texts:
                continue
            chosen.append(at)
            used.add(int(space.owners[at]))
            used_texts.add(space.texts[at])
            count -= 1

    ranks = np.floor(rng.random(4 * len(nearest)) ** settings.skew * len(nearest)).astype(int)
    add(nearest[ranks].tolist(), settings.hard)
    add(rng.permutation(lexical).tolist(), settings.lexical)
    add(rng.permutation(np.array(asked.given, dtype=np.int64)).tolist(), settings.given)
    others = np.flatnonzero(space.usable)
    add(rng.choice(others, min(len(others), 4 * settings.size)).tolist(), settings.size)
    add(nearest.tolist(), settings.size)
    return chosen
