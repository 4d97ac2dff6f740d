"""From a video to a tracked data set: reading, landmarks, crop, fit, matte, layout. Imports nothing of scene."""
