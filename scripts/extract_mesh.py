"""The command ``sasnet extract`` from a clone: ``python scripts/extract_mesh.py`` takes the same options."""

from sasnet_ns.commands.extract import main

if __name__ == "__main__":
    main()
