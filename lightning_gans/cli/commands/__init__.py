"""Commands on a checkpoint or a recipe; each file has ``add_arguments(parser)`` and ``run(args)``."""
