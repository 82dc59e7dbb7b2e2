"""The ε-network, its form for a GPU, and where it runs."""
