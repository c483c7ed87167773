"""Encoder cross-encoders (BERT, RoBERTa, ELECTRA, DeBERTa, ModernBERT families) in torch."""

from __future__ import annotations
