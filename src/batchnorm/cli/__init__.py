"""The command `batchnorm`. One command a file; each parses, calls and prints, and holds no logic."""

import importlib.util
import sys

NEEDED = ("typer", "rich", "joblib", "jinja2", "matplotlib", "scipy")


def main() -> None:
    """Run the command line; without the extra's packages say how to install them."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"batchnorm: the command needs {', '.join(missing)}, which is not installed.\n"
            f'Install the extra: pip install "batchnorm[study]"\n'
        )
        raise SystemExit(2)
    try:
        from batchnorm.cli.app import run

        run()
    except KeyboardInterrupt:
        # Ctrl-C before a command has begun, while its packages are imported
        sys.stderr.write("batchnorm: stopped.\n")
        raise SystemExit(130) from None
