"""The command ``sasnet fit-image`` from a clone: ``python scripts/fit_image.py`` takes the same options."""

from sasnet_ns.commands.fit_image import main

if __name__ == "__main__":
    main()
