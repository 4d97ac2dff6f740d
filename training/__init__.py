"""The training of an avatar: world, losses, steps, logging. Entry points wire these together."""
