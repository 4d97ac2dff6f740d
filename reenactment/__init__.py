"""Driving an avatar with another face: drivers, retargeting between heads, cures for codes out of range, views."""
