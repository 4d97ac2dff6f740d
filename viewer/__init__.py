"""The interactive page of view.py: a state, a painter that turns it into pictures, and viser widgets that change it."""
