"""Speed of scoring, compared with every peer on the same weights, texts and cores."""
