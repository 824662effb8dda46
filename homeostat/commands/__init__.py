"""The subcommands of `homeostat`, a module for each part of a deployment's life."""
