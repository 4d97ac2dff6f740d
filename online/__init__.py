"""An avatar that is learnt while its person sits before a camera."""
