"""An avatar that plays without its data set: any codes and any camera to a picture."""

from player.player import Player, open_player

__all__ = ["Player", "open_player"]
