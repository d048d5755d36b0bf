import sys

from core.cli import main

sys.exit(main(["align", *sys.argv[1:]]))
