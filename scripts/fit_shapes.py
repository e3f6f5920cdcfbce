"""The command ``sasnet fit-shapes`` from a clone: ``python scripts/fit_shapes.py`` takes the same options."""

from sasnet_ns.commands.fit_shapes import main

if __name__ == "__main__":
    main()
