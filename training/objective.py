"""What training makes small."""

from __future__ import annotations

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax

from training.settings import Train


def listwise(
    scores: torch.Tensor, labels: torch.Tensor, cosines: torch.Tensor, settings: Train
) -> torch.Tensor:
    """Return the loss of each list: ListNet's cross-entropy (Cao et al., 2007) of soft targets.

    The target is the softmax of the bi-encoder's cosines, mixed with the label where there is
    one; those lists also have the binary cross-entropy of each pair, which ties the scores of
    different queries to one level.

    Args:
        scores: Logits of shape ``(lists, size)``.
        labels: 1 where relevant, 0 elsewhere, float32 of the same shape.
        cosines: Float32 of the same shape.
        settings: Temperature and weights.

    Returns:
        Shape ``(lists,)``.
    """
    soft = torch.softmax(cosines / settings.temperature, -1)
    relevant = labels.sum(-1, keepdim=True)
    labelled = (relevant > 0).float()
    share = settings.label_share * labelled
    target = share * labels / relevant.clamp(min=1) + (1 - share) * soft
    loss = -(target * log_softmax(scores, -1)).sum(-1)
    point = binary_cross_entropy_with_logits(scores, labels, reduction="none").mean(-1)
    return loss + settings.pointwise * labelled[:, 0] * point
