"""How fast the library is, one script a question. `python -m benchmarks` runs them all and says which targets are met.

`measure.py` runs the cases of a script, `targets.py` judges, `plot.py` draws: both from the JSON alone.
"""
