"""`python -m batchnorm.cli`: the same command where the script is not on the path."""

from batchnorm.cli import main

main()
