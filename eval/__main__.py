import sys

from core.cli import main

sys.exit(main(["eval", *sys.argv[1:]]))
