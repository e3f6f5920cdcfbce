"""The command ``sasnet compile`` from a clone: ``python scripts/compile_kernels.py`` does the same."""

from sasnet_ns.commands.compile import main

if __name__ == "__main__":
    main()
