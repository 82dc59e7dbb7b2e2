"""From the words of a command line to a finished run."""

import os

# Torch's threads then sleep while they wait. By default they spin, and take the cores of whatever else is busy. Its
# runtime reads this once, when it is loaded; every command imports this room before torch.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
