"""Pictures, one a module; `python -m torch_gd.plot` lists them."""
