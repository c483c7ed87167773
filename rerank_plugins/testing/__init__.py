"""Test doubles and contract suites, for this project's tests and for yours.

:class:`FakeCrossEncoder` and :class:`FakeBiEncoder` compute real, deterministic numbers from
word overlap, without a model. :class:`CrossEncoderContract` and :class:`BiEncoderContract`
are pytest classes: subclass one, define the fixture ``backend``, and your backend is held to
everything the core relies on.
"""

from rerank_plugins.testing.contracts import BiEncoderContract, CrossEncoderContract
from rerank_plugins.testing.fakes import FakeBiEncoder, FakeCrossEncoder

__all__ = ["BiEncoderContract", "CrossEncoderContract", "FakeBiEncoder", "FakeCrossEncoder"]
