"""The `maskc` command, also as `python -m maskc`."""

import gc

__all__ = ["main"]


def main() -> None:
    """Run the command line.

    What is imported stays, so looking for garbage among it would only take time: one part in
    thirty of a cache hit.
    """
    gc.disable()
    from maskc.cli import main as run

    gc.freeze()
    gc.enable()
    run()


if __name__ == "__main__":
    main()
