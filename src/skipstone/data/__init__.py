"""What goes in: real images as uint8 tensors, split into train and held-out."""

from skipstone.data.folder import folder
from skipstone.data.images import ImageSet, pick, to_bytes, to_unit
from skipstone.data.sources import from_torchvision, mnist5k

__all__ = ["ImageSet", "folder", "from_torchvision", "mnist5k", "pick", "to_bytes", "to_unit"]
