"""The command line of LAVIS, as MA-LMM's users type it; the work is done in malmm."""
