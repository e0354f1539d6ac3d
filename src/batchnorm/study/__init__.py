"""Experiments on real images that show what batch normalization does; run by the command `batchnorm study`.

Nothing here is imported by `import batchnorm`. What it needs is the extra `batchnorm[study]`.
"""
