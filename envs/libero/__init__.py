"""LIBERO's engine (BDDL problems on robosuite and MuJoCo) behind the chunked environment contract."""
