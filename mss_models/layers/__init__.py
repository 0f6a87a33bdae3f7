"""Layers that backbones, heads and systems share."""
