"""The command ``sasnet evaluate`` from a clone: ``python scripts/evaluate_mesh.py`` takes the same options."""

from sasnet_ns.commands.evaluate import main

if __name__ == "__main__":
    main()
