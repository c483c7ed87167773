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
    different queries to one level. A best candidate that has nearly all of the target hides the
    order of the others, so the list is compared again without its best, its best two, and so on,
    as in the model of Plackett and Luce.

    Args:
        scores: Logits of shape ``(lists, size)``.
        labels: 1 where relevant, 0 elsewhere, float32 of the same shape.
        cosines: Float32 of the same shape.
        settings: Temperature and weights.

    Returns:
        Shape ``(lists,)``.
    """
    soft = cosines / settings.temperature
    relevant = labels.sum(-1, keepdim=True)
    labelled = (relevant > 0).float()
    share = settings.label_share * labelled
    target = share * labels / relevant.clamp(min=1) + (1 - share) * torch.softmax(soft, -1)
    loss = -(target * log_softmax(scores, -1)).sum(-1)
    order = target.argsort(dim=-1, descending=True, stable=True)
    for left_out in range(1, min(settings.again_without, scores.shape[-1] - 2) + 1):
        rest = order[:, left_out:]
        less = torch.softmax(soft.gather(-1, rest), -1)
        again = -(less * log_softmax(scores.gather(-1, rest), -1)).sum(-1)
        loss = loss + settings.again * again
    point = binary_cross_entropy_with_logits(scores, labels, reduction="none").mean(-1)
    return loss + settings.pointwise * labelled[:, 0] * point
