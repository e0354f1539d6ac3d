"""Comparisons that know how accurate torch itself is."""
