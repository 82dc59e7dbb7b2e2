"""A model sampled in cells from the same start noise, and measured."""
