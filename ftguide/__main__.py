"`python -m ftguide`: the command, for `accelerate launch -m ftguide`. Written by hand, because a notebook cannot export this name."
from ftguide.cli import main

main()
