"""``python -m hardpoint`` is ``hardpoint``."""

from hardpoint.cli import main

main()
