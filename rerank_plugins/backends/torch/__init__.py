"""Encoder cross-encoders (BERT, RoBERTa, ELECTRA, DeBERTa, ModernBERT families) in torch."""
