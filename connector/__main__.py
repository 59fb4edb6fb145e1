"""``python -m connector``: the same as the command ``orchard``."""

from connector.cli.main import main

main()
