"""fastclip scores CLIP models on labelled image sets: embed once, ask anything."""

__version__ = "0.1.0"
