"""What the world holds: tracked frames, data sets, and the avatar that is learnt from them."""
