"""What a training leaves on the way, and how it goes on from there."""
