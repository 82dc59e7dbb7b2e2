"""Multiruns: the folder that a sweep leaves, how its jobs are carried out, and the report over all of them."""
