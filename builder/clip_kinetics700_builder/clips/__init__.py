"""Which clips there are, in which order: annotation files and class lists in, clips and parts out.

It opens no video, no archive and no connection, and imports neither torch nor the rooms above it.
Others use most: `annotations.read_annotations`, `classes.resolve_class_list`, `plan.order_clips`,
`plan.cut_parts`, `plan.write_plan`, `plan.read_plan`, `plan.PlanTable`, `releases.RELEASES`.
"""
