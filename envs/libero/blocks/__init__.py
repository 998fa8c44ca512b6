"""`libero_blocks`: tasks with primitive objects on LIBERO's engine, without LIBERO's downloadable assets."""
