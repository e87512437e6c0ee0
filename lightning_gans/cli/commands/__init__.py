"""Our own commands: each module has a function ``run`` that takes the options of the command."""
