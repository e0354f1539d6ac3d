"""How the library is timed: what `batchnorm bench` and the scripts in benchmarks/ share."""
