"""What ships with the program: the open head, and the demo subject's generator."""
