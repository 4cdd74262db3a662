"""What other libraries call the arguments of a schedule, and what they are called here."""

_FLOOR = "pass floor=…, which is a factor of the base learning rate (such as 0.1) and not a rate"
_TOTAL = "pass total_steps=…, the length of the run in steps, warm-up included"
_WARMUP = "pass warmup=…: steps (int), a fraction of the run (float), or a Warmup"
_WARMUP_SHAPE = "pass warmup=Warmup(length, kind, start), which says the warm-up's shape and where it starts"
_PEAK = "the peak is the learning rate that the optimizer's groups have; set it there"

RIGHT_NAMES = {
    **dict.fromkeys(
        ("eta_min", "min_lr", "lr_min", "lr_end", "end_lr", "final_lr", "min_lr_ratio", "min_lr_rate", "end_factor"),
        ("floor", _FLOOR),
    ),
    **dict.fromkeys(
        ("T_max", "t_max", "total_iters", "num_steps", "num_training_steps", "training_steps", "max_steps", "max_iters")
        + ("num_iters", "steps", "epochs", "t_initial"),
        ("total_steps", _TOTAL),
    ),
    **dict.fromkeys(
        ("warmup_steps", "num_warmup_steps", "warmup_iters", "warmup_epochs", "warmup_length", "warmup_t")
        + ("warmup_ratio", "warmup_fraction"),
        ("warmup", _WARMUP),
    ),
    **dict.fromkeys(
        ("warmup_type", "warmup_kind", "warmup_method", "warmup_start", "warmup_factor", "warmup_start_lr")
        + ("warmup_lr", "warmup_init_lr", "start_factor"),
        ("warmup", _WARMUP_SHAPE),
    ),
    **dict.fromkeys(("max_lr", "base_lr", "lr", "learning_rate", "peak_lr"), ("optimizer", _PEAK)),
    **dict.fromkeys(
        ("T_0", "t_0", "cycle_length", "first_cycle_steps"),
        ("first_cycle", "pass first_cycle=…, the steps of the first cycle"),
    ),
    **dict.fromkeys(("T_mult", "t_mult"), ("cycle_mult", "pass cycle_mult=…, an int")),
    **dict.fromkeys(("decay_rate", "lr_decay", "factor"), ("gamma", "pass gamma=…, the factor of each drop")),
}
"""By the wrong name: the right one, and advice that mentions it."""

DECAY_FUNCTION_NAMES = {
    "lr_lambda": ("decay", "pass decay=…, a function from the steps since the warm-up to a factor"),
}

DECAY_LENGTH_NAMES = {
    **dict.fromkeys(
        ("decay_steps", "num_decay_steps", "decay_length", "decay_ratio"),
        ("decay", "pass decay=…, the length of the decay: steps (int) or a fraction of the run (float)"),
    ),
    **dict.fromkeys(("decay_type", "decay_kind", "decay_shape"), ("tail", "pass tail=…, the shape of the decay")),
}
