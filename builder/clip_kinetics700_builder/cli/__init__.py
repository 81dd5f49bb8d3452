"""The command line: words come in, one command runs, an exit code goes out.

click and rich's tables live here alone. A command reads its options, makes one call into another
room and prints what came of it; heavy rooms are imported within the commands, so that `--help`
loads neither torch nor huggingface_hub. Others use `app.run` and `app.main`.
"""
