"`python -m ftguide`: the command, for `accelerate launch -m ftguide`."

from ftguide.cli import main

main()
