"""Adaptation: heads for a target domain whose images are known and whose labels are not (docs/adaptation.md)."""
