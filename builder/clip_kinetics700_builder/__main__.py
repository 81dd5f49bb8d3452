"""`python -m clip_kinetics700_builder` runs the command line."""

from clip_kinetics700_builder import main

main()
