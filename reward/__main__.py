import sys

from core.cli import main

sys.exit(main(["reward", *sys.argv[1:]]))
