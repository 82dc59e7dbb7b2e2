"""Speed here, and beside a peer: one file a subcommand of scripts/benchmark.py."""
