"""`python -m foveal`: the command line of this interpreter, whatever else is on the path."""

from foveal.cli.main import main

if __name__ == "__main__":
    main()
