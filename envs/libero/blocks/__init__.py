"""`libero_blocks`: tasks with primitive objects on LIBERO's engine. Needs none of LIBERO's downloadable assets."""
