"""Run as `python -m mailwatch`."""

from mailwatch.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
