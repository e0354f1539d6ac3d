"""One experiment a file; `registry.py` lists them."""
