"""`python -m admin.cli`: the same as `ccs`, for starting services without relying on PATH."""

from admin.cli import main

main()
