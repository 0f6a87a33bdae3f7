"""Heads: four feature maps -> class logits at stride 4."""
