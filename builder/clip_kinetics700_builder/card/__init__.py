"""The dataset card: a manifest and results of evaluations become README.md and its pictures.

Every figure on the card is one of theirs. Only `drawing` imports matplotlib, and only in a process
of its own; nothing here reads samples. Others use `render.write_card`, `render.render_card`,
`figures.write_figures` and `results.EvaluationResult`.
"""
