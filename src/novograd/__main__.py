"""``python -m novograd`` is the command ``novograd``."""

from novograd.cli import main

if __name__ == "__main__":
    main()
