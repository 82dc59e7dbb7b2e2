"""The study of the proxies: what each distance sees of graded damage, and what it misses."""
