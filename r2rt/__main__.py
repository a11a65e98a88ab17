"""`python -m r2rt`."""

from r2rt.cli import main

if __name__ == "__main__":
    main()
