"""What several test files share: cases, the float64 oracle, all pairs of options, counts."""
