"""The command ``sasnet fit-shape`` from a clone: ``python scripts/fit_shape.py`` takes the same options."""

from sasnet_ns.commands.fit_shape import main

if __name__ == "__main__":
    main()
