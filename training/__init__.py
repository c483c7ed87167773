"""Training of the embedded cross-encoder: ``python -m training STEP``.

The modules in the order of the data:

- ``manuals`` and ``prepare`` read text and build a ``corpus``.
- ``mine`` turns it into a ``dataset`` of lists: ``query_generation`` and ``augmentation`` make the
  queries, ``answer_windows`` finds the relevant text, and ``candidates`` draws the others.
- ``train`` repeats steps: ``sampler`` chooses the lists, ``gradient_workers`` computes their loss
  with the ``network``, and ``checkpoint`` updates and saves the weights; ``validation`` measures
  them.
- ``export`` writes a model folder, ``evaluate`` measures it, and ``model_card`` describes it.
"""
